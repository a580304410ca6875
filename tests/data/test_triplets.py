"""Batches: each epoch holds every triplet once, and any batch can be had without the ones before."""

from __future__ import annotations

import numpy as np
import torch

from adiabatic_ray import config
from adiabatic_ray.data import triplets
from adiabatic_ray.data.sets import Triplets


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


def triplets_of(example: list[int] | None, count: int) -> Triplets:
    rows = np.arange(count)
    texts = [str(row) for row in rows]
    numbers = None if example is None else np.array(example)
    return Triplets(name="t", queries=texts, passages=texts, query=rows, positive=rows, negative=rows, example=numbers)


def test_all_negatives_of_an_example_come_together() -> None:
    batch = triplets.of_examples(triplets_of([0, 1, 1, 1, 2, 2], 6), 3, seed=0, every_negative=True)
    assert sorted(batch(0).tolist()) == [[0, -1, -1], [1, 2, 3], [4, 5, -1]]


def test_one_negative_of_an_example_is_drawn_for_each_batch() -> None:
    data = triplets_of([0, 1, 1, 1, 2, 2], 6)
    batch = triplets.of_examples(data, 3, seed=0, every_negative=False)
    drawn = [sorted(batch(number).ravel().tolist()) for number in range(300)]
    assert all(one[0] == 0 and one[1] in (1, 2, 3) and one[2] in (4, 5) for one in drawn)
    counts = np.bincount(np.ravel(drawn))
    assert counts[1:4].min() > 70
    assert counts[4:].min() > 120
    again = triplets.of_examples(data, 3, seed=0, every_negative=False)
    assert np.array_equal(again(299), batch(299))


def test_triplets_without_examples_are_drawn_as_they_are() -> None:
    plain, batch = (
        triplets.batches(10, 4, seed=1),
        triplets.of_examples(triplets_of(None, 10), 4, 1, every_negative=True),
    )
    assert [batch(i).ravel().tolist() for i in range(5)] == [plain(i).tolist() for i in range(5)]


def test_steps_of_epochs() -> None:
    settings = config.Train(data=config.Source(path="x"), epochs=1.5, batch_size=8, gradient_accumulation_steps=2)
    assert triplets.steps(settings, triplets_of(None, 100)) == 10  # ceil(150 / 16)
    assert triplets.steps(settings, triplets_of([i // 4 for i in range(400)], 400)) == 10
