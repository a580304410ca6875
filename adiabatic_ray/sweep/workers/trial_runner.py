"""Runs a process's trials one after the other: trains, measures, writes to the sweep's folder, and reports.

This module does not use Ray. In a torch process group all processes run the same trials together, and only the first
one writes.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Generator, Mapping

import torch

from adiabatic_ray import config, errors, storage
from adiabatic_ray.evaluate import edge
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.evaluate.embedded_data import EmbeddedData
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.search.space import Config
from adiabatic_ray.sweep.cluster import gpu_memory
from adiabatic_ray.sweep.workers.usage import Usage
from adiabatic_ray.train import trial
from adiabatic_ray.trials.layout import SweepFolder
from adiabatic_ray.trials.record import GAIN_AT_EDGE, ProfilePoint, TrialReport

PATIENCE = 2.0  # seconds to wait for the storage before the caller hears of it


class TrialRunner:
    """Runs one trial at a time. `start` ends the one before it. Without `writes` nothing goes to the sweep's folder."""

    def __init__(
        self, encoder: Encoder, sweep: config.Sweep, embedded: EmbeddedData, folder: str, *, writes: bool = True
    ) -> None:
        self.encoder, self.sweep, self.writes = encoder, sweep, writes
        self.sweep_folder = SweepFolder(storage.folder(folder))
        self.edges = sweep.search.candidates == "edge"
        self.data = trial.TrainingData.prepare(embedded.train, embedded.train_passages.open(), encoder)
        self.benchmark = Benchmark(embedded.selection, sweep.search.gain, sweep.constraint, encoder.device)
        self.trial: Generator[trial.Progress[Measurement], None, None] | None = None
        self._unstored: trial.Progress[Measurement] | None = None  # what a full storage did not take
        gc.freeze()  # later garbage collections then skip the libraries and the shared data

    def start(self, number: int, choice: Config) -> None:
        """Prepare a trial. All its work, and any failure, comes with the first `step`."""
        self.close()
        self._unstored, self.usage = None, Usage(self.encoder.device)
        self.number, self.folder = number, self.sweep_folder.trial(number)
        self.trial = self._run(choice)

    def step(self) -> TrialReport:
        """Train up to the next evaluation point, and store it.

        If the storage does not take it within a few seconds, the report says only what it `waits` for, and the next
        `step` tries again. So the caller hears of it, and can end.

        Raises:
            torch.AcceleratorError: the GPU failed, and this process cannot use it any more.
            StorageError: the storage does not answer where a trial begins.
        """
        assert self.trial is not None
        try:
            self._unstored = progress = self._unstored or next(self.trial)
            trouble = self._store(progress)
            if trouble:
                return TrialReport(self.number, "running", waits=trouble)
            self._unstored = None
            return self._report(progress)
        except (torch.AcceleratorError, errors.StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - a configuration that fails is a result, not the sweep's end
            storage.write(self.folder.error, traceback.format_exc())
            return TrialReport(self.number, "crashed", reason=f"{errors.summary(error)} (see {self.folder.error})")

    def close(self) -> None:
        """End the trial. Its last checkpoint is kept."""
        if self.trial is not None:
            self.trial.close()

    def _run(self, choice: Config) -> Generator[trial.Progress[Measurement], None, None]:
        yield from trial.run(
            self.encoder,
            self.data,
            config.trial_settings(self.sweep, choice),
            self.benchmark.measure,
            seed=self.sweep.seed,
            resume=checkpoint.load(self.folder.checkpoint),
            scale_down=self._scale_down,
        )

    def _scale_down(self, measure: Callable[[float], Measurement], whole: Measurement) -> dict[float, Measurement]:
        """Measure a finished trial's displacement at its edge and at the scales that the sweep names."""
        wanted, limit = self.sweep.evaluate.scales, self.sweep.evaluate.exact
        measured = edge.carry(self.benchmark, measure, whole, limit) if self.edges else {}
        return measured | {scale: measure(scale) for scale in wanted if scale not in measured}

    def _report(self, progress: trial.Progress[Measurement]) -> TrialReport:
        if progress.measurement is None:
            reason = progress.reason
            if progress.status == "out_of_memory" and self.encoder.device.type == "cuda":
                reason += gpu_memory.advice(self.sweep.resources.gpus_per_trial)
            return TrialReport(self.number, progress.status, progress.step, progress.steps, reason=reason)
        violation = progress.measurement.violation
        assert violation is not None
        started = time.perf_counter()
        profile = self._profile(progress.measurement)
        spent = {"time/profile_seconds": time.perf_counter() - started} if profile else {}
        spent |= self.usage.metrics()
        predicted = {point.scale: point for point in profile}
        if progress.scaled:
            profile = self._profile(progress.measurement, progress.scaled)
        return TrialReport(
            number=self.number,
            status=progress.status,
            step=progress.step,
            steps=progress.steps,
            metrics={**progress.metrics, **progress.measurement.metrics, **_edge_metrics(predicted), **spent},
            worst=violation.worst,
            scaled=tuple(
                edge.candidate(scale, one, predicted.get(scale)) for scale, one in sorted(progress.scaled.items())
            ),
            profile=tuple(profile) if progress.status == "complete" else (),
            harmful=violation.harmful,
        )

    def _profile(self, whole: Measurement, scaled: Mapping[float, Measurement] | None = None) -> list[ProfilePoint]:
        """The profile from the measured scales; empty where trials are judged by their whole displacements."""
        if not self.edges:
            return []
        return edge.profile(self.benchmark, {0.0: self.benchmark.untouched(), **(scaled or {}), 1.0: whole})

    def _store(self, progress: trial.Progress[Measurement]) -> str:
        """Store an evaluation, and return why that is not possible now, or nothing."""
        if not self.writes or progress.measurement is None:
            return ""
        try:
            with storage.patience(PATIENCE):
                self._write(progress, progress.measurement)
        except errors.StorageError as error:
            return errors.summary(error.__cause__ or error)
        return ""

    def _write(self, progress: trial.Progress[Measurement], measurement: Measurement) -> None:
        """Write what a resume or a confirmation needs. The evaluation is reported only after that."""
        assert progress.checkpoint is not None
        assert progress.displacement is not None
        self.benchmark.write_discordance(self.folder.discordance, measurement)
        self.benchmark.write_outcomes(self.folder.outcomes, {1.0: measurement, **progress.scaled})
        if progress.status == "running":
            checkpoint.save(self.folder.checkpoint, progress.checkpoint())
        else:
            tensors = progress.displacement.tensors()
            checkpoint.save(self.folder.displacement, checkpoint.Checkpoint(tensors, {"step": progress.step}))


def _edge_metrics(predicted: Mapping[float, ProfilePoint]) -> dict[str, float]:
    """The scale of the predicted edge and the gain there, which is 0 if nothing is predicted to be feasible."""
    if not predicted:
        return {}
    best = edge.predicted_edge(list(predicted.values()))
    return {"edge/scale": best.scale, GAIN_AT_EDGE: max(0.0, best.gain)} if best else {GAIN_AT_EDGE: 0.0}
