"""Discordance against double loops over cosines in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from adiabatic_ray.data import sets
from adiabatic_ray.evaluate import discordance


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)), dim=-1)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    x, y = a.double().tolist(), b.double().tolist()
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    return dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_triplets_against_a_loop(rng: np.random.Generator) -> None:
    queries, passages = unit(rng, 20, 6), unit(rng, 30, 6)
    rows = {key: rng.integers(0, size, 200) for key, size in (("query", 20), ("positive", 30), ("negative", 30))}
    data = sets.Triplets(name="t", queries=["q"] * 20, passages=[], **rows)
    expected = [
        cosine(queries[q], passages[p]) <= cosine(queries[q], passages[n])
        for q, p, n in zip(rows["query"], rows["positive"], rows["negative"], strict=True)
    ]
    found = discordance.triplets(data, queries, passages)
    assert found.tolist() == expected
    assert discordance.pnd(found) == pytest.approx(100 * sum(expected) / 200)
    assert 50 < sum(expected) < 150


def test_triplets_in_chunks(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, passages = unit(rng, 5, 6), unit(rng, 9, 6)
    rows = {key: rng.integers(0, 5, 50) for key in ("query", "positive", "negative")}
    data = sets.Triplets(name="t", queries=["q"] * 5, passages=[], **rows)
    whole = discordance.triplets(data, queries, passages)
    monkeypatch.setattr(discordance, "ROWS_PER_CHUNK", 7)
    assert torch.equal(discordance.triplets(data, queries, passages), whole)


def test_a_negative_equal_to_the_positive_is_discordant(rng: np.random.Generator) -> None:
    queries, passages = unit(rng, 1000, 384), unit(rng, 1000, 384)
    rows = np.arange(1000)
    data = sets.Triplets(name="t", queries=["q"] * 1000, passages=[], query=rows, positive=rows, negative=rows)
    assert bool(discordance.triplets(data, queries, passages).all())


def make_xnli(rng: np.random.Generator, n: int = 7, languages: int = 3) -> tuple[Any, torch.Tensor, torch.Tensor]:
    queries, passages = unit(rng, 10, 6), unit(rng, 40, 6)
    shape = (n, languages)
    data = sets.Xnli(
        name="x",
        languages=["de", "en", "sw"][:languages],
        queries=["q"] * 10,
        passages=[],
        premise=rng.integers(0, 10, shape),
        **{key: rng.integers(0, 40, shape) for key in ("entailment", "neutral", "contradiction")},
    )
    return data, queries, passages


def test_xnli_against_a_loop(rng: np.random.Generator) -> None:
    data, queries, passages = make_xnli(rng)
    found = discordance.xnli(data, queries, passages)
    assert found.shape == (7, 2, 3, 3)
    for i in range(7):
        for c, comparison in enumerate(("neutral", "contradiction")):
            for x in range(3):
                for y in range(3):
                    query = queries[data.premise[i, x]]
                    right = cosine(query, passages[data.entailment[i, y]])
                    wrong = cosine(query, passages[getattr(data, comparison)[i, y]])
                    assert bool(found[i, c, x, y]) == (right <= wrong)


def test_improvement() -> None:
    assert discordance.improvement(200, 150) == 25.0
    assert discordance.improvement(200, 250) == -25.0
    assert discordance.improvement(0, 0) == 0.0
    assert discordance.improvement(0, 3) == float("-inf")


def test_rows_of_the_table(rng: np.random.Generator) -> None:
    data, queries, passages = make_xnli(rng)
    tuned = discordance.xnli(data, queries, passages)
    base = torch.from_numpy(rng.random(tuned.shape) < 0.5)
    rows = {(row[1], row[2], row[3]): row for row in discordance.rows(data, tuned, base)}
    assert len(rows) == 2 * 3 * 3
    row = rows["contradiction", "sw", "en"]
    before, after = base[:, 1, 2, 1].tolist(), tuned[:, 1, 2, 1].tolist()
    fixed = sum(b and not a for b, a in zip(before, after, strict=True))
    broken = sum(a and not b for b, a in zip(before, after, strict=True))
    assert row[4:10] == [7, sum(after), pytest.approx(100 * sum(after) / 7), sum(before), fixed, broken]
    assert len(row) == len(discordance.COLUMNS) + len(discordance.PAIRED_COLUMNS)
    assert all(len(row) == len(discordance.COLUMNS) for row in discordance.rows(data, tuned))
