"""Discordance against double loops over cosines in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from adiabatic_ray.data import sets
from adiabatic_ray.evaluate import discordance


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)), dim=-1)


def of_lengths(rng: np.random.Generator, similarity: str, *shape: int) -> torch.Tensor:
    """Of unit length for cosines, else of lengths between 0.5 and 2."""
    lengths = rng.uniform(0.5, 2, (shape[0], 1)).astype(np.float32) if similarity != "cosine" else np.float32(1)
    return unit(rng, *shape) * torch.as_tensor(lengths)


def dot(x: list[float], y: list[float]) -> float:
    return sum(p * q for p, q in zip(x, y, strict=True))


SCORES: dict[str, Callable[[list[float], list[float]], float]] = {
    "cosine": lambda x, y: dot(x, y) / math.sqrt(dot(x, x) * dot(y, y)),
    "dot": dot,
    "euclidean": lambda x, y: -math.sqrt(sum((p - q) ** 2 for p, q in zip(x, y, strict=True))),
    "manhattan": lambda x, y: -sum(abs(p - q) for p, q in zip(x, y, strict=True)),
}


def score(similarity: str, query: torch.Tensor, passage: torch.Tensor) -> float:
    return SCORES[similarity](query.double().tolist(), passage.double().tolist())


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("similarity", SCORES)
def test_triplets_against_a_loop(rng: np.random.Generator, similarity: Any) -> None:
    queries, passages = of_lengths(rng, similarity, 20, 6), of_lengths(rng, similarity, 30, 6)
    rows = {key: rng.integers(0, size, 200) for key, size in (("query", 20), ("positive", 30), ("negative", 30))}
    data = sets.Triplets(name="t", queries=["q"] * 20, passages=[], **rows)
    expected = [
        score(similarity, queries[q], passages[p]) <= score(similarity, queries[q], passages[n])
        for q, p, n in zip(rows["query"], rows["positive"], rows["negative"], strict=True)
    ]
    outcomes = discordance.outcomes(discordance.leads(data, queries, passages, similarity))
    assert outcomes.tolist() == expected
    assert discordance.pnd(outcomes) == pytest.approx(100 * sum(expected) / 200)
    assert 50 < sum(expected) < 150
    if similarity in ("euclidean", "manhattan"):  # which are not what they would be by products
        assert outcomes.tolist() != discordance.outcomes(discordance.leads(data, queries, passages)).tolist()


def test_triplets_in_chunks(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, passages = unit(rng, 5, 6), unit(rng, 9, 6)
    rows = {key: rng.integers(0, 5, 50) for key in ("query", "positive", "negative")}
    data = sets.Triplets(name="t", queries=["q"] * 5, passages=[], **rows)
    whole = discordance.outcomes(discordance.leads(data, queries, passages))
    monkeypatch.setattr(discordance, "ROWS_PER_CHUNK", 7)
    assert torch.equal(discordance.outcomes(discordance.leads(data, queries, passages)), whole)


@pytest.mark.parametrize("similarity", SCORES)
def test_a_negative_equal_to_the_positive_is_discordant(rng: np.random.Generator, similarity: Any) -> None:
    queries, passages = unit(rng, 1000, 384), unit(rng, 1000, 384)
    rows = np.arange(1000)
    data = sets.Triplets(name="t", queries=["q"] * 1000, passages=[], query=rows, positive=rows, negative=rows)
    assert bool(discordance.outcomes(discordance.leads(data, queries, passages, similarity)).all())


def make_xnli(
    rng: np.random.Generator, n: int = 7, languages: int = 3, similarity: str = "cosine"
) -> tuple[sets.Xnli, torch.Tensor, torch.Tensor]:
    queries, passages = of_lengths(rng, similarity, 10, 6), of_lengths(rng, similarity, 40, 6)
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


@pytest.mark.parametrize("similarity", SCORES)
def test_xnli_against_a_loop(rng: np.random.Generator, similarity: Any) -> None:
    data, queries, passages = make_xnli(rng, similarity=similarity)
    outcomes = discordance.outcomes(discordance.leads(data, queries, passages, similarity))
    assert outcomes.shape == (7, 2, 3, 3)
    for i in range(7):
        for c, comparison in enumerate(("neutral", "contradiction")):
            for x in range(3):
                for y in range(3):
                    query = queries[data.premise[i, x]]
                    right = score(similarity, query, passages[data.entailment[i, y]])
                    wrong = score(similarity, query, passages[getattr(data, comparison)[i, y]])
                    assert bool(outcomes[i, c, x, y]) == (right <= wrong)


def test_improvement() -> None:
    assert discordance.improvement(200, 150) == 25.0
    assert discordance.improvement(200, 250) == -25.0
    assert discordance.improvement(0, 0) == 0.0
    assert discordance.improvement(0, 3) == float("-inf")


def test_rows_of_the_table(rng: np.random.Generator) -> None:
    data, queries, passages = make_xnli(rng)
    tuned = discordance.outcomes(discordance.leads(data, queries, passages))
    base = torch.from_numpy(rng.random(tuned.shape) < 0.5)
    rows = {(row[1], row[2], row[3]): row for row in discordance.rows(data, tuned, base)}
    assert len(rows) == 2 * 3 * 3
    for c, comparison in enumerate(("neutral", "contradiction")):
        for x, query_language in enumerate(data.languages):
            for y, text_language in enumerate(data.languages):
                row = rows[comparison, query_language, text_language]
                assert row == ["x", *row[1:4], *numbers(base[:, c, x, y].tolist(), tuned[:, c, x, y].tolist())]
    assert len(row) == len(discordance.COLUMNS) + len(discordance.PAIRED_COLUMNS)
    assert [row[: len(discordance.COLUMNS)] for row in rows.values()] == list(discordance.rows(data, tuned))


def test_a_triplet_set_is_one_row(rng: np.random.Generator) -> None:
    index = np.arange(40)
    data = sets.Triplets(name="t", queries=["q"] * 40, passages=[], query=index, positive=index, negative=index)
    base, tuned = torch.from_numpy(rng.random((2, 40)) < 0.5)
    (row,) = discordance.rows(data, tuned, base)
    assert row == ["t", "negative", "", "", *numbers(base.tolist(), tuned.tolist())]


def numbers(before: list[bool], after: list[bool]) -> list[object]:
    """The numbers of a row with its paired columns, counted in loops."""
    pairs = list(zip(before, after, strict=True))
    fixed, broken = pairs.count((True, False)), pairs.count((False, True))
    gain = 100 * (sum(before) - sum(after)) / sum(before)
    p_value = stats.binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    share = pytest.approx(100 * sum(after) / len(after))
    return [len(after), sum(after), share, sum(before), fixed, broken, pytest.approx(gain), pytest.approx(p_value)]
