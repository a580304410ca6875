"""The work around the trials that needs the encoder, as tasks that run where trials run."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import ray
import torch

from adiabatic_ray import config
from adiabatic_ray.evaluate.benchmark import Benchmark, Part
from adiabatic_ray.model import encoder, export
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep.materials import Data, Filler, Filling, Materials
from adiabatic_ray.train import checkpoint

DISPLACEMENT, CHECKPOINT = "displacement.safetensors", "checkpoint.safetensors"

Metrics = Mapping[str, float]


@functools.lru_cache(maxsize=1)
def load(model: config.Model) -> Encoder:
    """The encoder on the GPU that Ray assigned to this process, else on the CPUs that it assigned; loaded once."""
    assigned = ray.get_runtime_context().get_assigned_resources()
    # A process that worked on something else before may have other threads than what it is given now.
    torch.set_num_threads(max(1, int(assigned.get("CPU", 1))))
    on_gpu = assigned.get("GPU", 0) > 0 and torch.cuda.is_available()
    return encoder.load(model, "cuda" if on_gpu else "cpu")


def fill(
    sweep: config.Sweep, data: Data, root: Path
) -> Generator[Filling | tuple[Materials, Metrics, Metrics], None, None]:
    """Fill all tables under `root`, yielding progress.

    At last come the materials, and the untouched encoder's metrics on the selection and on the confirmation sets.
    """
    shared = yield from Filler(load(sweep.model), root).materials(data)
    yield shared, _untouched(sweep, shared.selection), _untouched(sweep, shared.confirmation)


def confirm(sweep: config.Sweep, shared: Materials, folders: Sequence[Path]) -> list[Metrics]:
    """Metrics on the confirmation sets of the trials in these folders, which also get a `confirmation.csv`."""
    model = load(sweep.model)
    benchmark = Benchmark(shared.confirmation, sweep.search.objective, sweep.constraint)
    found = []
    for folder in folders:
        moved = {name: model.parameters[name] + delta.to(model.device) for name, delta in _displacement(folder).items()}
        measurement = benchmark.measure(lambda texts, moved=moved: model.encode(texts, "query", moved))  # type: ignore[misc]
        benchmark.write_discordance(folder / "confirmation.csv", measurement)
        found.append(measurement.metrics)
    return found


def export_encoder(model: config.Model, trial_folder: Path, target: Path) -> None:
    """Write the query encoder of a trial in sentence-transformers' format."""
    export.save(load(model), target, _displacement(trial_folder))


def _untouched(sweep: config.Sweep, parts: Sequence[Part]) -> Metrics:
    return Benchmark(parts, sweep.search.objective, sweep.constraint).untouched().metrics if parts else {}


def _displacement(folder: Path) -> Mapping[str, torch.Tensor]:
    found = checkpoint.load(folder / DISPLACEMENT)
    assert found is not None, f"{folder} lost its displacement"
    return found.tensors
