"""A displacement keeps steps that float32 weights round away, and moves the weights the same way everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from adiabatic_ray import config
from adiabatic_ray.data import sets, sources, triplets
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.model import encoder as encoders
from adiabatic_ray.model import export
from adiabatic_ray.model.displacement import Displacement, moved
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.train import trial

LEARNING_RATE, BATCH = 2e-8, 14


def queries_and_passages(count: int, seed: int = 0) -> sets.Triplets:
    """Triplets of random words, of which the pocket encoder knows some."""
    rng = np.random.default_rng(seed)
    words = ["the", "teacher", "reads", "a", "book", "doctor", "writes", "letter", "who", "where", "slowly", "on"]

    def texts(prefix: str) -> list[str]:
        return [f"{prefix}{i} " + " ".join(rng.choice(words, 8)) for i in range(count)]

    rows = np.arange(count)
    passages = texts("p") + texts("n")
    return sets.Triplets(
        name="t", queries=texts("q"), passages=passages, query=rows, positive=rows, negative=rows + count
    )


def plain_training(encoder: Encoder, data: trial.TrainingData, dtype: torch.dtype, steps: int) -> dict[str, Tensor]:
    """The oracle: ordinary weights in `dtype`, ordinary AdamW, a loss written out; the displacement they end with."""
    module = encoder.module.__class__(modules=list(encoder.module), device="cpu")
    start = {name: weight.detach().to(dtype) for name, weight in encoder.parameters.items()}
    weights = {name: weight.clone().requires_grad_() for name, weight in start.items()}
    frozen = {name: p.detach().to(dtype) for name, p in module.named_parameters()}
    optimizer = torch.optim.AdamW(list(weights.values()), lr=LEARNING_RATE, weight_decay=0.0, foreach=False)
    batch, passages = triplets.batches(len(data.triplets), BATCH, seed=0), data.passages.to(dtype)
    for step in range(steps):
        rows = batch(step).numpy()
        features = encoder.collate([data.tokens[i] for i in data.triplets.query[rows]])
        current = frozen | {encoder.full_names[name]: weight for name, weight in weights.items()}
        embedding = functional_call(module, current, (features,))["sentence_embedding"]
        query = embedding / embedding.norm(dim=-1, keepdim=True)
        positive, negative = passages[data.triplets.positive[rows]], passages[data.triplets.negative[rows]]
        hinge = 0.1 - (query * positive).sum(-1) + (query * negative).sum(-1)
        loss = hinge.clamp(min=0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: weights[name].detach().double() - start[name].double() for name in weights}


def our_training(encoder: Encoder, data: trial.TrainingData, steps: int) -> dict[str, Tensor]:
    settings = config.Train(
        data=config.Source(path="none"),
        learning_rate=LEARNING_RATE,
        batch_size=BATCH,
        margin=0.1,
        freeze="none",
        steps=steps,
        evaluations=1,
    )
    *_, last = trial.run(encoder, data, settings, Benchmark([]).measure, seed=0)
    assert last.displacement is not None
    return {name: delta.double() for name, delta in last.displacement.tensors().items()}


def group(name: str) -> str:
    return re.sub(r"encoder\.layer\.\d+\.", "", name)


def relative_errors(approximate: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """By parameter group, the error of a displacement relative to the exact one, as root mean squares.

    The biases of the attention keys do not move: a softmax does not see them, so that their gradient is rounding alone.
    The error of a group that moves by less than a thousandth of a step is relative to the typical group.
    """

    def size(tensors: dict[str, Tensor], name: str) -> float:
        members = torch.cat([tensors[n].flatten() for n in tensors if group(n) == name])
        return float(members.square().mean().sqrt())

    groups = {group(n) for n in exact}
    distances = {name: size(exact, name) for name in groups}
    typical = sorted(distances.values())[len(distances) // 2]
    difference = {n: approximate[n] - exact[n] for n in exact}
    return {
        name: size(difference, name) / (distances[name] if distances[name] > 1e-3 * LEARNING_RATE else typical)
        for name in groups
    }


def check_fidelity(encoder: Encoder, data: sets.Triplets, steps: int, show: Callable[[str], object] = print) -> None:
    prepared = trial.TrainingData.prepare(data, encoder.encode(data.passages, "passage"), encoder)
    exact = plain_training(encoder, prepared, torch.float64, steps)
    ours = relative_errors(our_training(encoder, prepared, steps), exact)
    plain = relative_errors(plain_training(encoder, prepared, torch.float32, steps), exact)
    for name in sorted(ours):
        show(f"{name:45} displacement {ours[name]:.1e}  plain float32 {plain[name]:.1e}")
    layer_norms = [name for name in ours if name.endswith("LayerNorm.weight")]
    assert len(layer_norms) >= 2
    assert max(ours.values()) < 0.01
    assert all(plain[name] > 0.5 for name in layer_norms)  # nearly every one of their steps is rounded away


def test_steps_agree_with_float64(encoder: Encoder) -> None:
    check_fidelity(encoder, queries_and_passages(500), steps=50)


@pytest.mark.slow
def test_200_steps_agree_with_float64(encoder: Encoder) -> None:
    check_fidelity(encoder, queries_and_passages(500), steps=200)


@pytest.mark.slow
def test_steps_agree_with_float64_on_a_real_encoder(real_data: Path) -> None:
    source = config.Source(path=str(real_data / "msmarco"), split="train", limit=500)
    data = sources.load("train", source, seed=0)
    assert isinstance(data, sets.Triplets)
    check_fidelity(encoders.load(config.Model(name=str(real_data / "encoder"))), data, steps=40)


SCALES = (1.0, 0.75, 0.3)


@pytest.fixture
def displacement(encoder: Encoder) -> Displacement:
    """A small random displacement of half of the parameters."""
    generator = torch.Generator().manual_seed(0)
    displacement = Displacement(encoder, list(encoder.parameters)[::2])
    displacement.load(
        {name: 1e-3 * torch.randn(encoder.parameters[name].shape, generator=generator) for name in displacement.names}
    )
    return displacement


@pytest.mark.parametrize("scale", SCALES)
def test_product_and_sum_are_rounded_one_after_the_other(scale: float) -> None:
    """The oracle computes in float64, which holds the exact product of two float32 numbers, and rounds twice."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(100_000, dtype=np.float32)
    delta = (rng.standard_normal(100_000) * 10.0 ** rng.uniform(-12, 1, 100_000)).astype(np.float32)
    product = (np.float64(np.float32(scale)) * delta.astype(np.float64)).astype(np.float32)
    total = (base.astype(np.float64) + product.astype(np.float64)).astype(np.float32)
    fused = (base.astype(np.float64) + np.float64(np.float32(scale)) * delta.astype(np.float64)).astype(np.float32)
    tensors = {"w": torch.from_numpy(base)}, {"w": torch.from_numpy(delta)}
    assert moved(*tensors, scale)["w"].numpy().tobytes() == total.tobytes()
    assert (scale == 1) == bool((fused == total).all())  # the order of the roundings is visible in these numbers


def test_scale_one_adds_without_a_product() -> None:
    """Whole displacements are trained at scale 1, where a product takes time and memory in every step."""
    delta = torch.zeros(3, requires_grad=True)

    def operations(scale: float) -> list[str]:
        last = moved({"w": torch.ones(3)}, {"w": delta}, scale)["w"].grad_fn
        assert last is not None
        return [type(last).__name__, *(type(node).__name__ for node, _ in last.next_functions if node)]

    assert operations(1.0) == ["AddBackward0", "AccumulateGrad"]
    assert operations(0.5) == ["AddBackward0", "MulBackward0"]


def test_only_the_named_weights_move(encoder: Encoder) -> None:
    (name, *_) = encoder.parameters
    weights = moved(encoder.parameters, {name: torch.zeros_like(encoder.parameters[name])}, 0.5)
    assert list(weights) == [name]
    assert torch.equal(weights[name], encoder.parameters[name])


@pytest.mark.parametrize("scale", SCALES)
def test_trained_measured_and_exported_weights_are_the_same_to_the_last_bit(
    encoder: Encoder, displacement: Displacement, scale: float, tmp_path: Path
) -> None:
    trained = displacement.weights(scale)
    assert trained.keys() == set(displacement.names)
    stored = moved(encoder.parameters, displacement.tensors(), scale)
    export.save(encoder, tmp_path / "out", stored)
    exported = encoders.load(config.Model(name=str(tmp_path / "out"))).parameters
    for name, base in encoder.parameters.items():
        expected = trained.get(name, base)
        assert torch.equal(stored.get(name, base), expected)
        assert torch.equal(exported[name], expected)
    assert not any(torch.equal(exported[name], encoder.parameters[name]) for name in displacement.names)


def test_weights_are_differentiable_in_the_deltas(displacement: Displacement) -> None:
    sum(weight.sum() for weight in displacement.weights(0.75).values()).backward()  # type: ignore[union-attr]
    for delta in displacement.deltas:
        assert delta.grad is not None
        assert torch.equal(delta.grad, torch.full_like(delta, 0.75))
    assert not any(weight.requires_grad for weight in displacement.encoder.parameters.values())
