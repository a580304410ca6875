"""Losses against a loop in float64 and against sentence-transformers' own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sentence_transformers import SimilarityFunction
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


DISTANCES = {
    "euclidean": reference.TripletDistanceMetric.EUCLIDEAN,
    "manhattan": reference.TripletDistanceMetric.MANHATTAN,
}


@pytest.mark.parametrize("similarity", DISTANCES)
def test_distances_against_sentence_transformers(embeddings: list[torch.Tensor], similarity: Any) -> None:
    """Of embeddings whose lengths lie between 0.5 and 2."""
    lengths = torch.linspace(0.5, 2, 6)[:, None]
    query, positive, negative = (lengths.roll(i, 0) * one for i, one in enumerate(embeddings))
    triplet = reference.TripletLoss(torch.nn.Identity(), DISTANCES[similarity], triplet_margin=0.3)
    expected = triplet.compute_loss_from_embeddings([query, positive, negative], None)
    loss = losses.triplet_margin(query, positive, negative, torch.tensor(0.3), similarity)
    assert float(loss) == pytest.approx(float(expected), abs=1e-4)  # theirs adds 1e-6 to every difference
    assert float(loss) != pytest.approx(
        float(losses.triplet_margin(query, positive, negative, torch.tensor(0.3), "dot"))
    )

    scores = SimilarityFunction.to_similarity_fn(similarity)
    several = reference.MultipleNegativesRankingLoss(torch.nn.Identity(), scale=2.0, similarity_fct=scores)
    expected = several.compute_loss_from_embeddings([query, positive, negative], None)
    unused = torch.eye(6, 12, dtype=torch.bool)
    loss = losses.infonce(query, positive, negative, torch.tensor(0.5), unused, similarity)
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)

    margins = torch.linspace(-1, 1, 6)
    pairs = SimilarityFunction.to_similarity_pairwise_fn(similarity)
    theirs = (pairs(query, positive) - pairs(query, negative) - margins).square().mean()
    assert float(losses.margin_mse(query, positive, negative, margins, similarity)) == pytest.approx(float(theirs))


@pytest.mark.parametrize("similarity", DISTANCES)
def test_a_query_that_is_its_own_positive_has_a_gradient(embeddings: list[torch.Tensor], similarity: Any) -> None:
    query = embeddings[0].clone().requires_grad_()
    positive, negative = embeddings[0].clone(), embeddings[2]
    for loss in (
        losses.triplet_margin(query, positive, negative, torch.tensor(5.0), similarity),
        losses.infonce(query, positive, negative, torch.tensor(0.5), torch.eye(6, 12, dtype=torch.bool), similarity),
    ):
        (gradient,) = torch.autograd.grad(loss, query)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
