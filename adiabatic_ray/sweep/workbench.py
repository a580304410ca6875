"""The work around the trials that needs the encoder: filling the cache, confirming, exporting."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate.benchmark import Benchmark, Part
from adiabatic_ray.model import checkpoint, encoder, export, freezing
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.report.ledger import CONFIRMATION, OUTCOMES
from adiabatic_ray.sweep import gpu_share, session, space
from adiabatic_ray.sweep.materials import Data, Filler, Filling, Materials
from adiabatic_ray.sweep.resources import Plan

DISPLACEMENT, CHECKPOINT = "displacement.safetensors", "checkpoint.safetensors"

Metrics = Mapping[str, float]


class Workplace:
    """Where the work around the trials is done: where trials run, as a Ray task, or here.

    Here is the faster place for a Ray of our own without GPUs, where a task would have to import and load everything
    once more. No trial runs at the same time, so a task has the CPUs of a whole node.
    """

    def __init__(self, model: config.Model, layout: Plan, *, here: bool) -> None:
        self._model = model
        self._encoder = encoder.load(model) if here else None
        self._resources = {"num_cpus": layout.filling_cpus, "num_gpus": min(1.0, layout.gpus)}

    def run(self, work: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        """What `work(encoder, *arguments)` yields."""
        if self._encoder is not None:
            yield from work(self._encoder, *arguments)
            return
        task = ray.remote(_with_encoder).options(num_returns="streaming", **self._resources)
        for reference in task.remote(work, self._model, *arguments):
            yield session.get(reference)


@functools.lru_cache(maxsize=1)
def load(model: config.Model) -> Encoder:
    """The encoder on the GPU that Ray assigned to this process, else on the CPUs that it assigned; loaded once.

    Raises:
        ResourceError: a share of a GPU is not free, or too small for the encoder.
    """
    threads, on_gpu = assigned()
    # A process that worked on something else before may have other threads than what it is given now.
    torch.set_num_threads(threads)
    if not on_gpu:
        return encoder.load(model, "cpu")
    share = ray.get_runtime_context().get_assigned_resources()["GPU"]
    if share < 1:
        gpu_share.take(share)
    try:
        return encoder.load(model, "cuda")
    except torch.OutOfMemoryError as error:
        raise errors.ResourceError(f"{errors.summary(error)}{gpu_share.advice(share)}") from None


def assigned(workers: int = 1) -> tuple[int, bool]:
    """What Ray assigned to this process, divided among so many: the threads of each, and whether each has a GPU."""
    resources = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(resources.get("CPU", 1) / workers)), resources.get("GPU", 0) > 0 and torch.cuda.is_available()


def fill(
    model: Encoder, sweep: config.Sweep, data: Data, root: Path, untouched: Path
) -> Iterator[Filling | tuple[Materials, Metrics, Metrics]]:
    """Fill all tables under `root`, yielding progress.

    At last come the materials, and the untouched encoder's metrics on the selection and on the confirmation sets; its
    outcomes are written to the folder `untouched`.

    Raises:
        MaskError: a freezing mask of the sweep does not fit the encoder.
    """
    for mask in space.masks(sweep):
        freezing.trainable(mask, model.parameters)
    shared = yield from Filler(model, root).materials(data)
    untouched.mkdir(parents=True, exist_ok=True)
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


def export_encoder(model: Encoder, trial_folder: Path, scale: float, card: str, target: Path) -> Iterator[Path]:
    """Write a candidate under the folder `target`, as `model.export` does; yields the folder."""
    export.hand_over(model, target, displacement(trial_folder, scale), card)
    yield target


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
    yield from work(load(model), *arguments)


def _untouched(sweep: config.Sweep, parts: Sequence[Part], outcomes: Path) -> Metrics:
    if not parts:
        return {}
    benchmark = Benchmark(parts, sweep.search.objective, sweep.constraint)
    measurement = benchmark.untouched()
    benchmark.write_outcomes(outcomes, {1.0: measurement})
    return measurement.metrics
