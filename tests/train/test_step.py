"""The maths of a step against formulas written out in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from adiabatic_ray import config
from adiabatic_ray.train import step

SETTINGS = config.Train(data=config.Source(path="none"), steps=1, learning_rate=0.01)
CPU = torch.device("cpu")


def settings(**changes: Any) -> config.Train:
    return dataclasses.replace(SETTINGS, **changes)


def test_warm_up_rises_to_the_rate() -> None:
    warming = settings(learning_rate=1.0, warmup_steps=3)
    assert [step.learning_rate(warming, i) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [step.learning_rate(settings(learning_rate=2e-8), i) for i in (0, 99)] == [2e-8, 2e-8]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_optimizer_is_adamw_on_the_displacement(weight_decay: float) -> None:
    """Three steps by the formulas of Loshchilov and Hutter (2019), whose decay pulls the displacement to zero."""
    chosen = settings(weight_decay=weight_decay)
    rng = np.random.default_rng(0)
    expected, gradients = rng.standard_normal(50), rng.standard_normal((3, 50))
    delta = torch.tensor(expected, dtype=torch.float32, requires_grad=True)
    optimizer = step.optimizer([delta], chosen)
    first, second = np.zeros(50), np.zeros(50)
    for count, gradient in enumerate(gradients, start=1):
        delta.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9**count), second / (1 - 0.999**count)
        expected = expected * (1 - 0.01 * weight_decay) - 0.01 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    np.testing.assert_allclose(delta.detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # cosines of 0.6 with the positive and of 0.8 with the negative
        ({"margin": 0.1}, 0.1 - 0.6 + 0.8),
        ({"margin": 0.5}, 0.5 - 0.6 + 0.8),
        ({"margin": 0.5, "temperature": 0.5}, 0.5 - 0.6 + 0.8),  # it is the other loss's
        ({"loss": "margin_mse"}, (0.6 - 0.8 - 0.3) ** 2),
        ({"loss": "infonce", "temperature": 1.0}, math.log(math.exp(0.6) + math.exp(0.8)) - 0.6),
        ({"loss": "infonce", "temperature": 0.5}, math.log(math.exp(1.2) + math.exp(1.6)) - 1.2),
    ],
)
def test_the_loss_is_the_one_of_the_settings(changes: dict[str, Any], expected: float) -> None:
    loss = step.loss_function(settings(**changes), CPU, "cosine")
    query, positive, negative = (torch.tensor([row]) for row in ([1.0, 0.0], [0.6, 0.8], [0.8, 0.6]))
    same = torch.tensor([[True, False]])
    assert float(loss(query, positive, negative, same, torch.tensor([0.3]))) == pytest.approx(expected, abs=1e-6)
