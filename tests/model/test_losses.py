"""Losses against a loop in float64 and against sentence-transformers' own."""

from __future__ import annotations

import math

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as reference

from adiabatic_ray.model import losses


@pytest.fixture
def embeddings() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.functional.normalize(torch.randn(6, 8, generator=generator), dim=-1) for _ in range(3)]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_triplet_margin(embeddings: list[torch.Tensor]) -> None:
    rows = zip(*(side.double().tolist() for side in embeddings), strict=True)
    terms = [max(0.0, 0.3 - cosine(q, p) + cosine(q, n)) for q, p, n in rows]
    assert 0 < terms.count(0.0) < len(terms)  # both sides of the hinge are tried
    loss = losses.triplet_margin(*embeddings, torch.tensor(0.3))
    assert float(loss) == pytest.approx(sum(terms) / len(terms), abs=1e-6)


def test_infonce_is_multiple_negatives_ranking(embeddings: list[torch.Tensor]) -> None:
    query, positive, negative = embeddings
    expected = reference.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0).compute_loss_from_embeddings(
        [query, positive, negative], None
    )
    loss = losses.infonce(query, positive, negative, torch.tensor(0.05), torch.eye(6, 12, dtype=torch.bool))
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_infonce_with_two_negatives_a_query_is_multiple_negatives_ranking(embeddings: list[torch.Tensor]) -> None:
    query, positive, negative = embeddings
    others = negative.flip(0)
    expected = reference.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0).compute_loss_from_embeddings(
        [query, positive, negative, others], None
    )
    both = torch.stack([negative, others], dim=1).flatten(0, 1)
    loss = losses.infonce(query, positive, both, torch.tensor(0.05), torch.eye(6, 18, dtype=torch.bool))
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_infonce_of_pairs_is_multiple_negatives_ranking(embeddings: list[torch.Tensor]) -> None:
    query, positive, negative = embeddings
    expected = reference.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0).compute_loss_from_embeddings(
        [query, positive], None
    )
    loss = losses.infonce(query, positive, negative[:0], torch.tensor(0.05), torch.eye(6, dtype=torch.bool))
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_infonce_leaves_out_the_right_passage_of_another_row(embeddings: list[torch.Tensor]) -> None:
    """Two queries of a batch with one positive: the other's copy of it is no negative."""
    query, positive, negative = embeddings
    positive = positive.clone()
    positive[1] = positive[0]
    same = torch.eye(6, 12, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    scores = (query @ torch.cat([positive, negative]).T / 0.05).double()
    terms = []
    for i in range(6):
        others = [j for j in range(12) if j == i or not same[i, j]]
        terms.append(float(torch.logsumexp(scores[i, others], 0) - scores[i, i]))
    loss = losses.infonce(query, positive, negative, torch.tensor(0.05), same)
    assert float(loss) == pytest.approx(sum(terms) / 6, abs=1e-5)


def test_margin_mse_is_sentence_transformers(embeddings: list[torch.Tensor]) -> None:
    margins = torch.linspace(-1, 2, 6)
    expected = reference.MarginMSELoss(torch.nn.Identity()).compute_loss_from_embeddings(embeddings, margins)
    assert float(losses.margin_mse(*embeddings, margins)) == pytest.approx(float(expected), abs=1e-6)
