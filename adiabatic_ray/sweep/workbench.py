"""The work around the trials that needs the encoder: filling the cache, confirming, exporting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from adiabatic_ray import config, errors, storage
from adiabatic_ray.evaluate.benchmark import Benchmark, Part
from adiabatic_ray.model import checkpoint, encoder, export, freezing
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.report.ledger import CONFIRMATION, OUTCOMES, write
from adiabatic_ray.sweep import embedding, session, space
from adiabatic_ray.sweep.materials import Data, Filler, Filling, Materials
from adiabatic_ray.sweep.resources import Plan

DISPLACEMENT, CHECKPOINT = "displacement.safetensors", "checkpoint.safetensors"
RECORD = "trial.json"  # beside exported models: which trial they are, and the mark of a whole folder

Metrics = Mapping[str, float]


class Workplace:
    """Where the work around the trials is done: where trials run, as a Ray task, or here.

    Here is the faster place for a Ray of our own without GPUs, where a task would have to import and load everything
    once more. No trial runs at the same time, so a task has the CPUs of a whole node, and embedding has all nodes.
    """

    def __init__(self, model: config.Model, layout: Plan, *, here: bool) -> None:
        self.encoder = encoder.load(model)
        self.embed = None if here else embedding.on_cluster(model, layout)
        self._model, self._here = model, here
        self._resources = {"num_cpus": layout.filling_cpus, "num_gpus": min(1.0, layout.gpus)}

    def run(self, work: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        """What `work(encoder, *arguments)` yields."""
        if self._here:
            yield from work(self.encoder, *arguments)
            return
        task = ray.remote(_with_encoder).options(num_returns="streaming", **self._resources)
        for reference in task.remote(work, self._model, *arguments):
            yield session.get(reference)


def fill(
    place: Workplace, sweep: config.Sweep, data: Data, root: Path, untouched: Path
) -> Iterator[Filling | tuple[Materials, Metrics, Metrics]]:
    """Fill all tables under `root`, yielding progress.

    At last come the materials, and the untouched encoder's metrics on the selection and on the confirmation sets; its
    outcomes are written to the folder `untouched`.

    Raises:
        MaskError: a freezing mask of the sweep does not fit the encoder.
    """
    for mask in space.masks(sweep):
        freezing.trainable(mask, place.encoder.parameters)
    shared = yield from Filler(place.encoder, root, place.embed).materials(data)
    yield (
        shared,
        _untouched(sweep, shared.selection, untouched / OUTCOMES),
        _untouched(sweep, shared.confirmation, untouched / CONFIRMATION),
    )


def confirm(
    model: Encoder, sweep: config.Sweep, shared: Materials, candidates: Sequence[tuple[Path, float]]
) -> Iterator[Metrics]:
    """Metrics on the confirmation sets of candidates, given by their trials' folders and their scales.

    The folders also get a `confirmation.csv` and the outcomes.
    """
    benchmark = Benchmark(shared.confirmation, sweep.search.objective, sweep.constraint)
    for folder, scale in candidates:
        moved = {
            name: model.parameters[name] + delta.to(model.device) for name, delta in displacement(folder, scale).items()
        }
        measurement = benchmark.measure(lambda texts, moved=moved: model.encode(texts, "query", moved))  # type: ignore[misc]
        benchmark.write_discordance(folder / "confirmation.csv", measurement)
        benchmark.write_outcomes(folder / CONFIRMATION, {scale: measurement})
        yield measurement.metrics


def export_encoder(
    model: Encoder, trial_folder: Path, scale: float, card: str, record: Mapping[str, Any], target: Path
) -> Iterator[Path]:
    """Put a candidate into the folder `target`, as `model.export` does, beside its record; yields the folder."""
    with storage.building(target, last=RECORD) as partial:
        export.hand_over(model, partial, displacement(trial_folder, scale), card)
        write(partial / RECORD, record)
    yield target


def kept(trial_folder: Path) -> bool:
    """Whether a trial's displacement is there still, so that it can be confirmed and handed over."""
    return storage.exists(trial_folder / DISPLACEMENT)


def displacement(trial_folder: Path, scale: float) -> dict[str, torch.Tensor]:
    """A trial's displacement times `scale`, by parameter.

    Raises:
        SweepError: it was not kept, or its file is damaged.
    """
    path = trial_folder / DISPLACEMENT
    found = checkpoint.load(path)
    if found is None:
        raise errors.SweepError(
            f"{path} is missing or damaged. Only the best trials' displacements are kept (`budget.confirm`); to have "
            "this one again, run its configuration in a sweep of another name."
        )
    return {name: scale * delta for name, delta in found.tensors.items()}


def _with_encoder(work: Callable[..., Iterator[Any]], model: config.Model, *arguments: Any) -> Iterator[Any]:
    yield from work(embedding.load(model), *arguments)


def _untouched(sweep: config.Sweep, parts: Sequence[Part], outcomes: Path) -> Metrics:
    if not parts:
        return {}
    benchmark = Benchmark(parts, sweep.search.objective, sweep.constraint)
    measurement = benchmark.untouched()
    benchmark.write_outcomes(outcomes, {1.0: measurement})
    return measurement.metrics
