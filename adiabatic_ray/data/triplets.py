"""Divides training data into batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.data.sets import Rows, Triplets


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


def of_examples(data: Triplets, batch_size: int, seed: int, *, every_negative: bool) -> Callable[[int], Rows]:
    """A function from the number of a batch to the triplets of its examples, `[batch_size, negatives]`.

    Of an example with several negatives it is each triplet, and -1 where others have more; or only one, which the
    number of the batch and the seed draw.
    """
    first = data.first
    counts = np.diff(first, append=len(data))
    order = batches(len(first), batch_size, seed)

    def batch(number: int) -> Rows:
        examples = order(number).numpy()
        if every_negative:
            place = np.arange(counts.max())
            return np.where(place < counts[examples, None], first[examples, None] + place, -1)
        drawn = np.random.default_rng([seed, number]).integers(counts[examples])
        chosen: Rows = first[examples] + drawn
        return chosen[:, None]

    return batch


def steps(settings: config.Train, data: Triplets) -> int:
    """The number of optimiser steps of a trial."""
    if settings.steps is not None:
        return settings.steps
    assert settings.epochs is not None
    count = len(data.first)
    return max(1, math.ceil(settings.epochs * count / (settings.batch_size * settings.gradient_accumulation_steps)))
