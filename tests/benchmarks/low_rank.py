"""Displacements of low rank beside a full one: loss, memory, files and time: `python -m tests.benchmarks.low_rank`.

Each trains in a process of its own on the same batches. The full rank is the smaller side of the matrices, with
which `B A` can be any matrix. The memory is what the process took at most beyond what it held when
the encoder and the data were loaded, beside the count of `train.memory`.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from adiabatic_ray import config
from adiabatic_ray.data import sets
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.model import checkpoint, displacement, encoder
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.train import memory, trial
from tests.benchmarks import encoder_folder, training_triplets

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
BATCH, STEPS, POINTS, TRIPLETS = 14, 200, 10, 2000
RANKS = {"a full displacement": None, "full rank": 384, "rank 64": 64, "rank 8": 8}
RATES = {"a full displacement": 1e-5, "full rank": 1.7e-5, "rank 64": 1e-4, "rank 8": 3e-4}


@dataclass(frozen=True)
class Trained:
    """Mean losses of each tenth of the steps, seconds of a step, and bytes."""

    losses: list[float]
    seconds: float
    counted: int
    peak: int
    checkpoint: int
    displacement: int


def train(label: str, folder: str, data: sets.Triplets, passages: np.ndarray) -> Trained:
    """Train once."""
    model = encoder.load(config.Model(name=folder))
    prepared = trial.TrainingData.prepare(data, torch.from_numpy(passages), model)
    settings = config.Train(
        data=config.Source(path="none"),
        batch_size=BATCH,
        learning_rate=RATES[label],
        rank=RANKS[label],
        steps=STEPS,
        evaluations=POINTS,
    )
    CLEAR.write_text("5")  # the kernel starts the peak anew
    before, points = psutil.Process().memory_info().rss, []
    for point in trial.run(model, prepared, settings, Benchmark([]).measure, seed=0):
        points.append(point)
    peak, sizes = _peak(), list(_sizes(points[-1]))
    names = displacement.trained(model, settings.freeze, settings.rank)
    counted = memory.of_step(model, names, BATCH, max(map(len, prepared.tokens)), settings.rank)
    return Trained(
        losses=[point.metrics["loss"] for point in points],
        seconds=statistics.median(point.metrics["time/seconds_per_step"] for point in points),
        counted=counted.displacement,
        peak=peak - before,
        checkpoint=sizes[0],
        displacement=sizes[1],
    )


def _peak() -> int:
    """The most bytes that this process took since the peak was started anew."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _sizes(point: trial.Progress[object]) -> Iterator[int]:
    """The bytes of a trial's checkpoint, and of its displacement, on the disk."""
    assert point.checkpoint is not None
    assert point.displacement is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        for state in (point.checkpoint(), Checkpoint(point.displacement.tensors(), {})):
            checkpoint.save(path, state)
            yield path.stat().st_size


def main() -> None:
    folder, data = str(encoder_folder()), training_triplets(TRIPLETS)
    passages = encoder.load(config.Model(name=folder)).encode(data.passages, "passage").numpy()
    print(f"{STEPS} steps of {BATCH} triplets, `embeddings` frozen; MB; losses are means of {STEPS // POINTS} steps")
    print(f"{'':20}    rate   loss: first, last  ms a step  counted        peak  checkpoint  displacement")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for label in RANKS:
            one = pool.apply(train, (label, folder, data, passages))
            sizes = (one.counted, one.peak, one.checkpoint, one.displacement)
            print(
                f"{label:20} {RATES[label]:7.1e}    {one.losses[0]:.4f}  {one.losses[-1]:.4f}"
                f"{1000 * one.seconds:11.0f}" + "".join(f"{size / 1e6:12.1f}" for size in sizes),
                flush=True,
            )


if __name__ == "__main__":
    main()
