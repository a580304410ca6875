"""Training as CUDA graphs: what it does is what the same training does on a CPU, kernel by kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState

from adiabatic_ray import config
from adiabatic_ray.data import sources
from adiabatic_ray.data.sets import Triplets
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.model import checkpoint, encoder
from adiabatic_ray.train import trial
from adiabatic_ray.train.trial import Progress

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

Run = Callable[..., Iterator[Progress[Measurement]]]


@pytest.fixture(scope="module")
def run(pocket: Path) -> Run:
    """Runs a trial on a device, on queries of many widths."""
    triplets = sources.load("train", config.Source(path=str(pocket / "questions" / "train.jsonl"), limit=60), seed=0)
    assert isinstance(triplets, Triplets)
    long = [" ".join([text] * (1 + i % 4)) for i, text in enumerate(triplets.queries)]
    triplets = dataclasses.replace(triplets, queries=long)
    model = {device: encoder.load(config.Model(name=str(pocket / "encoder")), device) for device in ("cpu", "cuda")}
    passages = model["cpu"].encode(triplets.passages, "passage")

    def run(
        device: str, resume: checkpoint.Checkpoint | None = None, **changes: Any
    ) -> Iterator[Progress[Measurement]]:
        settings = config.Train(
            data=config.Source(path="none"),
            **({"learning_rate": 1e-4, "batch_size": 4, "steps": 24, "evaluations": 3} | changes),
        )
        PartialState._reset_state()  # Accelerate has one device a process; here it has two
        data = trial.TrainingData.prepare(triplets, passages, model[device])
        return trial.run(model[device], data, settings, Benchmark([]).measure, seed=0, resume=resume)

    return run


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all weights": {"freeze": "none"},
    "accumulation": {"gradient_accumulation_steps": 3},
    "infonce": {"loss": "infonce"},
    "dropout": {"dropout": True},
    "bfloat16": {"mixed_precision": "bf16"},
    "float16": {"mixed_precision": "fp16"},
}


@pytest.mark.parametrize("name", ["plain", "all weights", "accumulation", "infonce"])
def test_a_gpu_trains_what_a_cpu_trains(run: Run, name: str) -> None:
    on_cpu, on_gpu = list(run("cpu", **VARIANTS[name])), list(run("cuda", **VARIANTS[name]))
    losses = [[point.metrics["loss"] for point in points] for points in (on_cpu, on_gpu)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert on_cpu[-1].displacement is not None
    assert on_gpu[-1].displacement is not None
    expected, displacement = on_cpu[-1].displacement.tensors(), on_gpu[-1].displacement.tensors()
    off = sum(float((displacement[key] - expected[key]).square().sum()) for key in expected)
    assert off < 1e-4 * sum(float(delta.square().sum()) for delta in expected.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_stopped_and_resumed_equals_unbroken_on_a_gpu(run: Run, name: str) -> None:
    *_, unbroken = run("cuda", **VARIANTS[name])
    stopped = run("cuda", **VARIANTS[name])
    progress = next(stopped)
    assert progress.checkpoint is not None
    state = progress.checkpoint()
    stopped.close()
    *_, resumed = run("cuda", resume=state, **VARIANTS[name])
    assert unbroken.displacement is not None
    assert resumed.displacement is not None
    expected = unbroken.displacement.tensors()
    assert max(float((delta - expected[key]).abs().max()) for key, delta in resumed.displacement.tensors().items()) == 0


def test_a_trial_frees_its_memory(run: Run) -> None:
    *_, last = run("cuda")
    del last
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        *_, last = run("cuda")
        del last
    assert torch.cuda.memory_allocated() == before


def test_out_of_memory_is_a_result(run: Run) -> None:
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**21) / total)
    try:
        *_, last = run("cuda", batch_size=50)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert last.status == "out_of_memory"
    *_, last = run("cuda")
    assert last.status == "complete"
