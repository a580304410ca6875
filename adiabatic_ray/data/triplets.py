"""Which triplets make up which training batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from adiabatic_ray import config


def batches(count: int, batch_size: int, seed: int) -> Callable[[int], Tensor]:
    """The row numbers `[batch_size]` of batch 0, 1, 2, ...

    Rows come in a fresh random order each epoch, and batches run on over the end of an epoch. The batch with a given
    number depends on the number and the seed alone, so training can resume anywhere without stored state.
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
    """How many optimiser steps a trial takes on `count` triplets."""
    if settings.steps is not None:
        return settings.steps
    assert settings.epochs is not None
    return max(1, math.ceil(settings.epochs * count / (settings.batch_size * settings.gradient_accumulation_steps)))
