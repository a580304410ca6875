"""A trial: frozen stays frozen, stopped and resumed equals unbroken, and trouble is a result."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config, errors
from adiabatic_ray.data import sources
from adiabatic_ray.data.sets import Triplets
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.train import trial
from adiabatic_ray.train.trial import Progress

SETTINGS = config.Train(
    data=config.Source(path="none"), learning_rate=1e-4, batch_size=8, steps=12, evaluations=3, freeze="embeddings"
)


Points = Iterator[Progress[Measurement]]
Run = Callable[..., Points]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def data(pocket: Path, encoder: Encoder) -> trial.TrainingData:
    triplets = sources.load("train", config.Source(path=str(pocket / "questions" / "train.jsonl"), limit=60), seed=0)
    assert isinstance(triplets, Triplets)
    margins = np.linspace(-0.2, 0.8, len(triplets), dtype=np.float32)  # a teacher's, for `margin_mse`
    triplets = dataclasses.replace(triplets, margins=margins)
    return trial.TrainingData.prepare(triplets, encoder.encode(triplets.passages, "passage"), encoder)


@pytest.fixture
def run(encoder: Encoder, data: trial.TrainingData) -> Run:
    """Runs a trial with some of the settings changed."""

    def run(resume: checkpoint.Checkpoint | None = None, seed: int = 0, **changes: Any) -> Points:
        settings = dataclasses.replace(SETTINGS, **changes)
        return trial.run(encoder, data, settings, Benchmark([]).measure, seed=seed, resume=resume)

    return run


def end(points: Points) -> Tensors:
    """The displacement with which a trial ends."""
    *_, last = points
    assert last.status == "complete", last.reason
    assert last.displacement is not None
    return last.displacement.tensors()


def largest_difference(a: Tensors, b: Tensors) -> float:
    if a.keys() != b.keys():
        return math.inf
    return max(float((a[name] - b[name]).abs().max()) for name in a)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": True},
    "warm-up and decay": {"warmup_steps": 5, "weight_decay": 0.1},
    "accumulation": {"gradient_accumulation_steps": 3},
    "infonce": {"loss": "infonce"},
    "margin_mse": {"loss": "margin_mse"},
    "bfloat16": {"mixed_precision": "bf16"},
    "low rank": {"rank": 4},
}


@pytest.mark.parametrize(
    "changes", [pytest.param(v, id=k, marks=[pytest.mark.slow] if v else []) for k, v in VARIANTS.items()]
)
def test_stopped_and_resumed_equals_unbroken(run: Run, tmp_path: Path, changes: dict[str, Any]) -> None:
    unbroken = end(run(**changes))
    for stop_after in (1, 2):
        stopped = run(**changes)
        for _ in range(stop_after):
            progress = next(stopped)
        assert progress.checkpoint is not None
        checkpoint.save(tmp_path / "c.safetensors", progress.checkpoint())
        stopped.close()
        end(run(seed=9, **changes))  # what the process did in between changes nothing
        resumed = end(run(resume=checkpoint.load(tmp_path / "c.safetensors"), **changes))
        assert largest_difference(resumed, unbroken) == 0.0


def test_each_setting_reaches_the_training(run: Run) -> None:
    """Any two variants end elsewhere: no setting is ignored."""
    variants = VARIANTS | {"margin": {"margin": 0.3}, "batch": {"batch_size": 4}, "rate": {"learning_rate": 2e-4}}
    ends = {name: end(run(**changes)) for name, changes in variants.items()}
    names = list(ends)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert largest_difference(ends[one], ends[other]) > 1e-7, f"{one} ends where {other} ends"
    assert largest_difference(ends["plain"], end(run(seed=1))) > 1e-7


def test_accumulating_micro_batches_equals_one_large_batch(run: Run) -> None:
    """The batches follow each other in the same order, and AdamW sees the same mean gradient."""
    small, large = end(run(batch_size=4, gradient_accumulation_steps=2)), end(run(batch_size=8))
    difference = sum(float((small[name] - large[name]).square().sum()) for name in large)
    assert difference < 1e-6 * sum(float(delta.square().sum()) for delta in large.values())


def test_pairs_train_on_the_batchs_other_passages(run: Run, data: trial.TrainingData, encoder: Encoder) -> None:
    pairs = dataclasses.replace(data.triplets, negative=np.empty(0, dtype=np.int64))
    settings = dataclasses.replace(SETTINGS, loss="infonce", steps=60)
    points = list(
        trial.run(encoder, dataclasses.replace(data, triplets=pairs), settings, Benchmark([]).measure, seed=0)
    )
    assert points[-1].metrics["loss"] < points[0].metrics["loss"]
    *_, with_negatives = run(loss="infonce", steps=60)
    assert points[-1].metrics["loss"] < with_negatives.metrics["loss"]  # the task is easier


def test_infonce_compares_with_all_negatives_of_all_queries(data: trial.TrainingData, encoder: Encoder) -> None:
    """The first step's loss, with one, two and three negatives, against a plain loop."""
    few = data.triplets
    first, example = np.array([0, 10, 20]), np.array([0, 1, 1, 2, 2, 2])
    rows = first[example]
    negative = few.negative[[0, 1, 2, 3, 4, 5]]
    triplets = dataclasses.replace(
        few, query=few.query[rows], positive=few.positive[rows], negative=negative, example=example, margins=None
    )
    settings = dataclasses.replace(SETTINGS, loss="infonce", steps=1, evaluations=1, batch_size=3)
    *_, last = trial.run(encoder, dataclasses.replace(data, triplets=triplets), settings, Benchmark([]).measure, seed=0)

    queries = encoder.encode([few.queries[i] for i in few.query[first]], "query")
    passages = data.passages[torch.from_numpy(np.concatenate([few.positive[first], negative]))]
    scores = (queries @ passages.T / settings.temperature).double()
    expected = [float(torch.logsumexp(scores[i], 0) - scores[i, i]) for i in range(3)]
    assert last.metrics["loss"] == pytest.approx(sum(expected) / 3, abs=1e-5)


def test_frozen_parameters_stay_bit_identical(run: Run, encoder: Encoder, pocket: Path) -> None:
    before = {name: weight.clone() for name, weight in encoder.parameters.items()}
    moved = end(run(freeze="embeddings+layer.0", learning_rate=1e-2))
    assert sorted(moved) == sorted(n for n in before if not n.startswith("embeddings.") and "layer.0." not in n)
    assert all(float(delta.abs().max()) > 0 for delta in moved.values())
    fresh = dict(SentenceTransformer(str(pocket / "encoder"), device="cpu")[0].model.named_parameters())
    for name, weight in encoder.parameters.items():
        assert torch.equal(weight, before[name])
        assert torch.equal(weight, fresh[name])


def test_progress_tells_what_happened(run: Run) -> None:
    points = list(run())
    assert [(p.step, p.steps, p.status) for p in points] == [
        (4, 12, "running"),
        (8, 12, "running"),
        (12, 12, "complete"),
    ]
    first, last = points[0].metrics, points[-1].metrics
    assert 0 < first["displacement/norm"] < last["displacement/norm"]
    assert last["displacement/max"] <= 12 * 1e-4 * 1.01  # AdamW moves an entry by at most about its rate a step
    assert last["displacement/relative"] < 1
    assert {"loss", "time/seconds_per_step", "time/evaluation_seconds"} <= last.keys()


def test_the_norms_are_those_of_all_entries_together(run: Run, encoder: Encoder) -> None:
    *_, last = run()
    assert last.displacement is not None
    moved = last.displacement.tensors()
    assert {delta.dim() for delta in moved.values()} == {1, 2}
    moves, base = (
        np.concatenate([tensors[name].detach().numpy().astype(np.float64).ravel() for name in moved])
        for tensors in (moved, encoder.parameters)
    )
    assert last.metrics["displacement/norm"] == pytest.approx(np.linalg.norm(moves), rel=1e-6)
    assert last.metrics["displacement/relative"] == pytest.approx(
        np.linalg.norm(moves) / np.linalg.norm(base), rel=1e-6
    )
    assert last.metrics["displacement/max"] == np.abs(moves).max()


def test_half_precision_that_the_cpu_does_not_train_in_is_an_error(run: Run) -> None:
    with pytest.raises(errors.ConfigError, match=r"`fp16` needs a GPU; on a CPU use `no` or `bf16`"):
        list(run(mixed_precision="fp16"))


def test_training_reduces_the_loss_it_trains(run: Run) -> None:
    points = list(run(steps=120, learning_rate=1e-3, batch_size=14, evaluations=4))
    assert points[-1].metrics["loss"] < 0.7 * points[0].metrics["loss"]


def test_weight_decay_pulls_back_to_the_untouched_weights(run: Run) -> None:
    free, pulled = end(run(learning_rate=1e-2)), end(run(learning_rate=1e-2, weight_decay=20.0))
    size = [sum(float(delta.square().sum()) for delta in moved.values()) for moved in (free, pulled)]
    assert size[1] < 0.8 * size[0]


def test_precision_may_change_from_trial_to_trial_in_a_process(run: Run) -> None:
    assert largest_difference(end(run()), end(run())) == 0.0
    end(run(mixed_precision="bf16"))
    assert largest_difference(end(run()), end(run())) == 0.0


def test_a_loss_that_is_not_a_number_ends_the_trial(run: Run) -> None:
    points = list(run(learning_rate=1e30, steps=100, evaluations=2))
    assert [p.status for p in points] == ["diverged"]
    assert "the loss is nan at step" in points[0].reason
    assert points[0].measurement is None
    assert points[0].step < 100


def test_a_displacement_as_large_as_the_weights_ends_the_trial(run: Run) -> None:
    points = list(run(learning_rate=0.02, steps=200, evaluations=2))
    assert [p.status for p in points] == ["diverged"]
    assert "times as large as the weights at step" in points[0].reason
    assert points[0].step < 200


def test_a_mask_that_does_not_fit_is_an_error(run: Run) -> None:
    with pytest.raises(errors.MaskError, match=r"`layer.7` of 'layer.7' matches no parameter"):
        next(run(freeze="layer.7"))


@pytest.mark.slow
def test_out_of_memory_is_a_result(pocket: Path) -> None:
    """A process whose address space is limited, and a batch that does not fit into it."""
    program = f"""
import resource, torch
from adiabatic_ray import config
from adiabatic_ray.data import sources
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.model import encoder
from adiabatic_ray.train import trial
torch.set_num_threads(1)
model = encoder.load(config.Model(name={str(pocket / "encoder")!r}))
source = config.Source(path={str(pocket / "questions" / "train.jsonl")!r}, limit=50)
data = sources.load("train", source, seed=0)
prepared = trial.TrainingData.prepare(data, model.encode(data.passages, "passage"), model)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
settings = config.Train(data=source, steps=4, batch_size=50_000)
print(*[(p.status + ": " + p.reason) for p in trial.run(model, prepared, settings, Benchmark([]).measure, seed=0)])
settings = config.Train(data=source, steps=4, batch_size=8, evaluations=1)
print([p.status for p in trial.run(model, prepared, settings, Benchmark([]).measure, seed=0)])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    first, second = done.stdout.splitlines()
    assert first.startswith("out_of_memory: out of memory at batch size 50000: "), done.stderr
    assert second == "['complete']"  # the next trial in the process finds the memory free
