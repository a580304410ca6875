"""A process's trials, one after the other: trained, measured, written to the sweep's folder, and reported.

It knows nothing of Ray. In a torch process group all its processes make the same attempts in step, and the first one
writes and reports.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Generator
from typing import Any

import torch

from adiabatic_ray import config, errors, storage
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.report.ledger import OUTCOMES
from adiabatic_ray.sweep import gpu_share
from adiabatic_ray.sweep.materials import Materials
from adiabatic_ray.sweep.workbench import CHECKPOINT, DISPLACEMENT
from adiabatic_ray.train import trial

Report = dict[str, Any]


class Attempt:
    """The trial of a configuration at a time; `start` ends the one before it."""

    def __init__(
        self, encoder: Encoder, sweep: config.Sweep, shared: Materials, folder: str, *, writes: bool = True
    ) -> None:
        self.encoder, self.sweep, self.folder, self.writes = encoder, sweep, storage.folder(folder), writes
        self.data = trial.TrainingData.prepare(shared.train, shared.train_passages.open(), encoder)
        self.benchmark = Benchmark(shared.selection, sweep.search.objective, sweep.constraint)
        self.trial: Generator[trial.Progress[Measurement], None, None] | None = None
        gc.freeze()  # the collection after each trial need not look at libraries and shared materials again

    def start(self, chosen: dict[str, Any]) -> None:
        """Take on a configuration with its number; nothing happens, and nothing fails, before the first `step`."""
        self.close()
        self.number = chosen.pop("number")
        self.trial_folder = self.folder / "trials" / f"{self.number:04d}"
        self.trial = self._run(chosen)

    def step(self) -> Report:
        """Train up to the next evaluation point.

        Raises:
            torch.AcceleratorError: the process is of no use any more.
            StorageError: the sweep's folder is not there any more.
        """
        assert self.trial is not None
        try:
            return self._report(next(self.trial))
        except (torch.AcceleratorError, errors.StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - a configuration that fails is a result, not the sweep's end
            storage.write(self.trial_folder / "error.txt", traceback.format_exc())
            return self._ended("crashed", f"{errors.summary(error)} (see {self.trial_folder / 'error.txt'})")

    def close(self) -> None:
        """Leave the trial as it stands."""
        if self.trial is not None:
            self.trial.close()

    def _run(self, chosen: dict[str, Any]) -> Generator[trial.Progress[Measurement], None, None]:
        yield from trial.run(
            self.encoder,
            self.data,
            config.trial_settings(self.sweep, chosen),
            self.benchmark.measure,
            seed=self.sweep.seed,
            resume=checkpoint.load(self.trial_folder / CHECKPOINT),
            scales=self.sweep.evaluate.scales,
        )

    def _report(self, progress: trial.Progress[Measurement]) -> Report:
        if progress.measurement is None:
            reason = progress.reason
            if progress.status == "out_of_memory" and self.encoder.device.type == "cuda":
                reason += gpu_share.advice(self.sweep.resources.gpus_per_trial)
            return self._ended(progress.status, reason, progress.step, progress.steps)
        violation = progress.measurement.violation
        assert violation is not None
        if self.writes:
            self._write(progress, progress.measurement)
        return {
            "number": self.number,
            "status": progress.status,
            "reason": "",
            "step": progress.step,
            "steps": progress.steps,
            "metrics": {**progress.metrics, **progress.measurement.metrics},
            "worst": violation.worst,
            "scaled": [_candidate(scale, found) for scale, found in progress.scaled.items()],
            "harmful": violation.harmful,
        }

    def _write(self, progress: trial.Progress[Measurement], measurement: Measurement) -> None:
        """What a later resume or confirmation needs is on disk before anyone hears of this point."""
        assert progress.checkpoint is not None
        assert progress.displacement is not None
        self.benchmark.write_discordance(self.trial_folder / "discordance.csv", measurement)
        self.benchmark.write_outcomes(self.trial_folder / OUTCOMES, {1.0: measurement, **progress.scaled})
        if progress.status == "running":
            checkpoint.save(self.trial_folder / CHECKPOINT, progress.checkpoint())
        else:
            tensors = progress.displacement.tensors()
            checkpoint.save(self.trial_folder / DISPLACEMENT, Checkpoint(tensors, {"step": progress.step}))

    def _ended(self, status: str, reason: str, step: int = 0, steps: int = 0) -> Report:
        return {
            "number": self.number,
            "status": status,
            "reason": reason,
            "step": step,
            "steps": steps,
            "metrics": {},
            "worst": "",
            "scaled": [],
            "harmful": False,
        }


def _candidate(scale: float, found: Measurement) -> Report:
    assert found.violation is not None
    return {"scale": scale, "metrics": dict(found.metrics), "worst": found.violation.worst}
