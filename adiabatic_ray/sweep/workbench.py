"""The work around the trials that needs the encoder: filling the cache, confirming, exporting."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from adiabatic_ray import config
from adiabatic_ray.evaluate.benchmark import Benchmark, Part
from adiabatic_ray.model import encoder, export, freezing
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep import session, space
from adiabatic_ray.sweep.materials import Data, Filler, Filling, Materials
from adiabatic_ray.sweep.resources import Plan
from adiabatic_ray.train import checkpoint

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
        self._resources = {"num_cpus": layout.filling_cpus, "num_gpus": layout.gpus}

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
    """The encoder on the GPU that Ray assigned to this process, else on the CPUs that it assigned; loaded once."""
    assigned = ray.get_runtime_context().get_assigned_resources()
    # A process that worked on something else before may have other threads than what it is given now.
    torch.set_num_threads(max(1, int(assigned.get("CPU", 1))))
    on_gpu = assigned.get("GPU", 0) > 0 and torch.cuda.is_available()
    return encoder.load(model, "cuda" if on_gpu else "cpu")


def fill(
    model: Encoder, sweep: config.Sweep, data: Data, root: Path
) -> Iterator[Filling | tuple[Materials, Metrics, Metrics]]:
    """Fill all tables under `root`, yielding progress.

    At last come the materials, and the untouched encoder's metrics on the selection and on the confirmation sets.

    Raises:
        MaskError: a freezing mask of the sweep does not fit the encoder.
    """
    for mask in space.masks(sweep):
        freezing.trainable(mask, model.parameters)
    shared = yield from Filler(model, root).materials(data)
    yield shared, _untouched(sweep, shared.selection), _untouched(sweep, shared.confirmation)


def confirm(model: Encoder, sweep: config.Sweep, shared: Materials, folders: Sequence[Path]) -> Iterator[Metrics]:
    """Metrics on the confirmation sets of the trials in these folders, which also get a `confirmation.csv`."""
    benchmark = Benchmark(shared.confirmation, sweep.search.objective, sweep.constraint)
    for folder in folders:
        moved = {name: model.parameters[name] + delta.to(model.device) for name, delta in _displacement(folder).items()}
        measurement = benchmark.measure(lambda texts, moved=moved: model.encode(texts, "query", moved))  # type: ignore[misc]
        benchmark.write_discordance(folder / "confirmation.csv", measurement)
        yield measurement.metrics


def export_encoder(model: Encoder, trial_folder: Path, target: Path) -> Iterator[Path]:
    """Write the query encoder of a trial in sentence-transformers' format; yields the folder."""
    export.save(model, target, _displacement(trial_folder))
    yield target


def _with_encoder(work: Callable[..., Iterator[Any]], model: config.Model, *arguments: Any) -> Iterator[Any]:
    yield from work(load(model), *arguments)


def _untouched(sweep: config.Sweep, parts: Sequence[Part]) -> Metrics:
    return Benchmark(parts, sweep.search.objective, sweep.constraint).untouched().metrics if parts else {}


def _displacement(folder: Path) -> Mapping[str, torch.Tensor]:
    found = checkpoint.load(folder / DISPLACEMENT)
    assert found is not None, f"{folder} lost its displacement"
    return found.tensors
