"""The maths of one optimiser step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.model import losses

# (query embeddings [b, d], positives [b, d], negatives [n, d], unused [b, b + n], a teacher's margins [b]) -> loss
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def loss_function(settings: config.Train, device: torch.device, similarity: config.Similarity) -> Loss:
    """The loss that a trial's settings name, with its hyper-parameter as a tensor on the device."""
    if settings.loss == "infonce":
        temperature = torch.tensor(settings.temperature, device=device)
        return lambda query, positive, negative, unused, _: losses.infonce(
            query, positive, negative, temperature, unused, similarity
        )
    if settings.loss == "margin_mse":
        return lambda query, positive, negative, _, margins: losses.margin_mse(
            query, positive, negative, margins, similarity
        )
    margin = torch.tensor(settings.margin, device=device)
    return lambda query, positive, negative, *_: losses.triplet_margin(query, positive, negative, margin, similarity)


def optimizer(parameters: list[Tensor], settings: config.Train) -> torch.optim.AdamW:
    """AdamW on the displacement, so that its weight decay pulls back to the untouched weights.

    Torch's fused kernel makes one pass over the weights instead of ten. Source: Loshchilov and Hutter 2019.
    """
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def learning_rate(settings: config.Train, step: int) -> float:
    """The learning rate at step 0, 1, 2, ...: a linear warm-up, then constant."""
    return settings.learning_rate * min(1.0, (step + 1) / (settings.warmup_steps + 1))
