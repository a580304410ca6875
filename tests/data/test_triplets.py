"""Batches: each epoch holds every triplet once, and any batch can be had without the ones before."""

from __future__ import annotations

import torch

from adiabatic_ray import config
from adiabatic_ray.data import triplets


def test_every_epoch_holds_every_row_once() -> None:
    batch = triplets.batches(10, 4, seed=1)
    rows = torch.cat([batch(i) for i in range(5)]).tolist()
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    forwards, anywhere = triplets.batches(10, 4, seed=1), triplets.batches(10, 4, seed=1)
    expected = [forwards(i) for i in range(6)]
    assert torch.equal(anywhere(5), expected[5])
    assert torch.equal(anywhere(2), expected[2])
    assert not torch.equal(triplets.batches(10, 4, seed=2)(0), expected[0])


def test_batches_larger_than_the_data() -> None:
    rows = triplets.batches(3, 8, seed=0)(0).tolist()
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


def test_steps_of_epochs() -> None:
    settings = config.Train(data=config.Source(path="x"), epochs=1.5, batch_size=8, gradient_accumulation_steps=2)
    assert triplets.steps(settings, 100) == 10  # ceil(150 / 16)
