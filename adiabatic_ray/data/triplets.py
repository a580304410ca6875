"""Divides triplets into training batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from adiabatic_ray import config


def batches(count: int, batch_size: int, seed: int) -> Callable[[int], Tensor]:
    """A function from the number of a batch (0, 1, 2, ...) to its row numbers `[batch_size]`.

    Each epoch has a fresh random order, and a batch can span the end of an epoch. A batch depends only on its number
    and on the seed, so training can resume anywhere without stored state.
    """

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return torch.randperm(count, generator=generator)

    def batch(number: int) -> Tensor:
        first = number * batch_size
        positions = range(first, first + batch_size)
        return torch.stack([order(position // count)[position % count] for position in positions])

    return batch


def steps(settings: config.Train, count: int) -> int:
    """The number of optimiser steps of a trial on `count` triplets."""
    if settings.steps is not None:
        return settings.steps
    assert settings.epochs is not None
    return max(1, math.ceil(settings.epochs * count / (settings.batch_size * settings.gradient_accumulation_steps)))
