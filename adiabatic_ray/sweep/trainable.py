"""One trial inside a Ray actor.

An actor loads the encoder once. Trials that follow each other on it share the encoder, the tokenized training queries
and the memory-mapped documents, so that the next one starts at once.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from ray import tune

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.report.ledger import OUTCOMES
from adiabatic_ray.sweep import workbench
from adiabatic_ray.sweep.materials import Materials
from adiabatic_ray.sweep.workbench import CHECKPOINT, DISPLACEMENT
from adiabatic_ray.train import trial


class QueryTuning(tune.Trainable):  # type: ignore[misc]
    """A trial as Ray Tune drives it: one `step` is the training up to the next evaluation point."""

    def setup(self, chosen: dict[str, Any], sweep: config.Sweep, shared: Materials, folder: str) -> None:
        self.sweep, self.folder = sweep, Path(folder)
        self.encoder = workbench.load(sweep.model)
        self.data = trial.TrainingData.prepare(shared.train, shared.train_passages.open(), self.encoder)
        self.benchmark = Benchmark(shared.selection, sweep.search.objective, sweep.constraint)
        gc.freeze()  # the collection after each trial need not look at libraries and shared materials again
        self._start(chosen)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial.close()
        self._start(new_config)
        return True

    def cleanup(self) -> None:
        self.trial.close()

    def step(self) -> dict[str, Any]:
        try:
            progress = next(self.trial)
            report = self._report(progress)
        except torch.AcceleratorError:
            raise  # the process is of no use any more: Tune goes on in another one
        except Exception as error:  # noqa: BLE001 - a configuration that fails is a result, not the sweep's end
            (self.trial_folder / "error.txt").write_text(traceback.format_exc())
            report = self._ended("crashed", f"{errors.summary(error)} (see {self.trial_folder / 'error.txt'})")
        return {"report": report, "done": report["status"] != "running"}

    def _start(self, chosen: dict[str, Any]) -> None:
        self.number = chosen.pop("number")
        self.trial_folder = self.folder / "trials" / f"{self.number:04d}"
        self.trial = self._run(chosen)

    def _run(self, chosen: dict[str, Any]) -> Generator[trial.Progress[Measurement], None, None]:
        """The trial's progress; nothing happens, and nothing fails, before the first `step`."""
        yield from trial.run(
            self.encoder,
            self.data,
            config.trial_settings(self.sweep, chosen),
            self.benchmark.measure,
            seed=self.sweep.seed,
            resume=checkpoint.load(self.trial_folder / CHECKPOINT),
            scales=self.sweep.evaluate.scales,
        )

    def _report(self, progress: trial.Progress[Measurement]) -> dict[str, Any]:
        if progress.measurement is None:
            return self._ended(progress.status, progress.reason, progress.step, progress.steps)
        assert progress.checkpoint is not None
        assert progress.displacement is not None
        violation = progress.measurement.violation
        assert violation is not None
        # What a later resume or confirmation needs is on disk before anyone hears of this point.
        self.benchmark.write_discordance(self.trial_folder / "discordance.csv", progress.measurement)
        self.benchmark.write_outcomes(self.trial_folder / OUTCOMES, {1.0: progress.measurement, **progress.scaled})
        if progress.status == "running":
            checkpoint.save(self.trial_folder / CHECKPOINT, progress.checkpoint())
        else:
            tensors = progress.displacement.tensors()
            checkpoint.save(self.trial_folder / DISPLACEMENT, Checkpoint(tensors, {"step": progress.step}))
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

    def _ended(self, status: str, reason: str, step: int = 0, steps: int = 0) -> dict[str, Any]:
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


def _candidate(scale: float, found: Measurement) -> dict[str, Any]:
    assert found.violation is not None
    return {"scale": scale, "metrics": dict(found.metrics), "worst": found.violation.worst}
