"""One trial: adiabatic tuning of a query encoder on Accelerate, as a generator.

The generator yields at every evaluation point. The caller may stop at any yield, keep the checkpoint, and later resume
from it with the same results as without a stop. This module knows nothing of its callers.

In a torch process group, all processes run the same trial, and their callers must advance it together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch

from adiabatic_ray import config, errors
from adiabatic_ray.data import triplets
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.model.displacement import Displacement
from adiabatic_ray.model.encoder import Encode, Encoder
from adiabatic_ray.train.trainer import Trainer, TrainingData

__all__ = ["Progress", "TrainingData", "run"]

Status = Literal["running", "complete", "diverged", "out_of_memory"]
Measurement = TypeVar("Measurement")  # what `measure` returns
# Measures a displacement scaled down: from a function that measures it times a scale, and the whole one's measurement.
ScaleDown = Callable[[Callable[[float], Measurement], Measurement], Mapping[float, Measurement]]


@dataclass(frozen=True)
class Progress(Generic[Measurement]):
    """The state of a trial at an evaluation point. Any status but `running` is the last one.

    A trial that diverged or ran out of memory has a `reason` and no measurement. A complete trial also has the
    measurements of its displacement scaled down, by scale. `checkpoint` returns the state to resume from.
    """

    step: int
    steps: int
    status: Status
    metrics: dict[str, float] = field(default_factory=dict)
    measurement: Measurement | None = None
    scaled: Mapping[float, Measurement] = field(default_factory=dict)
    reason: str = ""
    checkpoint: Callable[[], Checkpoint] | None = None
    displacement: Displacement | None = None


def run(
    encoder: Encoder,
    data: TrainingData,
    settings: config.Train,
    measure: Callable[[Encode], Measurement],
    *,
    seed: int,
    resume: Checkpoint | None = None,
    scale_down: ScaleDown[Measurement] | None = None,
) -> Generator[Progress[Measurement], None, None]:
    """Train a displacement of `encoder` and measure it at `settings.evaluations` evenly spaced points.

    `measure` is called with the query encoder at each point. After the last one, `scale_down` chooses the scales at
    which the displacement is also measured. `resume` is the checkpoint of an unfinished run of the trial.

    Everything random depends on the seed (`settings.seed`, else `seed`) and the step alone, so that a resumed trial
    equals an unbroken one.

    Raises:
        MaskError: `settings.freeze` does not fit the encoder, or leaves nothing to `settings.rank`.
        ConfigError: `settings.mixed_precision` does not fit the device.
    """
    total = triplets.steps(settings, data.triplets)
    trainer: Trainer | None = None
    try:
        trainer = Trainer(encoder, data, settings, seed if settings.seed is None else settings.seed)
        if resume is not None:
            trainer.restore(resume)
        for point in _evaluation_points(total, settings.evaluations):
            if point <= trainer.step:
                continue
            started, first = time.perf_counter(), trainer.step
            trouble = trainer.advance(point)
            if trouble:
                yield Progress(trainer.step, total, "diverged", trainer.losses(), reason=trouble)
                return
            trained = time.perf_counter()
            measurement = measure(trainer.scaled(1.0))
            times = {
                "time/seconds_per_step": (trained - started) / (point - first),
                "time/evaluation_seconds": time.perf_counter() - trained,
            }
            metrics = trainer.losses() | trainer.model.norms() | times
            scaled: Mapping[float, Measurement] = {}
            if point == total and scale_down is not None:
                scaled = scale_down(lambda scale: measure(trainer.scaled(scale)), measurement)
            yield Progress(
                point,
                total,
                "complete" if point == total else "running",
                metrics,
                measurement,
                scaled,
                checkpoint=trainer.state,
                displacement=trainer.model,
            )
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        reason = f"out of memory at batch size {settings.batch_size}: {errors.summary(error)}"
        yield Progress(trainer.step if trainer else 0, total, "out_of_memory", reason=reason)
    finally:
        if trainer is not None:
            trainer.close()


def _evaluation_points(total: int, count: int) -> list[int]:
    return sorted({math.ceil(total * i / count) for i in range(1, count + 1)})


def _out_of_memory(error: BaseException) -> bool:
    # The CPU's allocator and CUDA libraries raise a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )
