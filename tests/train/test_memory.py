"""What a training step keeps, against counts by hand."""

from __future__ import annotations

import torch

from adiabatic_ray.model import freezing
from adiabatic_ray.model.displacement import trained
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.train import memory


def test_what_a_pass_keeps_is_counted_once() -> None:
    inputs, weight = torch.randn(10, 4), torch.randn(4, 3, requires_grad=True)
    # The product keeps its input (10 x 4), and `tanh` its result (10 x 3), also if it is used twice.
    assert memory.saved_bytes(lambda: (inputs @ weight).tanh(), without=[weight]) == 4 * (10 * 4 + 10 * 3)
    assert memory.saved_bytes(lambda: (inputs @ weight).tanh(), without=[weight, inputs]) == 4 * 10 * 3

    def twice() -> torch.Tensor:
        result = (inputs @ weight).tanh()
        return result.sum() + result.square().sum()

    assert memory.saved_bytes(twice, without=[weight, inputs]) == 4 * 10 * 3


def test_a_step_of_the_pocket_encoder(encoder: Encoder) -> None:
    names = freezing.trainable("embeddings", encoder.parameters, encoder.roles)
    one = memory.of_step(encoder, names, batch=4, tokens=16)
    assert one.weights == 4 * sum(p.numel() for p in encoder.module.parameters())
    assert one.displacement == 5 * 4 * sum(encoder.parameters[name].numel() for name in names)
    assert one.total == one.weights + one.displacement + one.activations
    more = memory.of_step(encoder, names, batch=8, tokens=16)
    assert 1.9 < more.activations / one.activations < 2.1
    # At least the input of each matrix product of a layer, which are 6 in BERT, and at most a few dozen times that.
    least = 4 * 4 * 16 * 96 * 6 * 2
    assert least < one.activations < 30 * least


def test_a_step_of_low_rank(encoder: Encoder) -> None:
    names = trained(encoder, "embeddings", 4)
    one = memory.of_step(encoder, names, batch=4, tokens=16, rank=4)
    factors = sum(4 * sum(encoder.parameters[name].shape) for name in names)
    assert one.displacement == 4 * 4 * factors
    full = memory.of_step(encoder, names, batch=4, tokens=16)
    assert one.displacement < full.displacement / 5
    assert one.activations < 1.1 * full.activations
