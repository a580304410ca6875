"""Ranking metrics against trec_eval's own code."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import pytrec_eval
import torch
from sentence_transformers import SimilarityFunction

from adiabatic_ray.data import sets
from adiabatic_ray.evaluate import ranking

MEASURES = {  # our names, and trec_eval's
    "ndcg_at_10": "ndcg_cut_10",
    "ndcg_at_5": "ndcg_cut_5",
    "recall_at_10": "recall_10",
    "recall_at_7": "recall_7",
    "recall_at_1000": "recall_1000",
    "precision_at_3": "P_3",
    "precision_at_100": "P_100",
    "map": "map_cut_1000",
}


def make(seed: int, queries: int = 12, passages: int = 1500) -> tuple[sets.Ranking, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)

    def unit(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(
            torch.from_numpy(rng.standard_normal((count, 16), dtype=np.float32)), dim=-1
        )

    q, p = unit(queries), unit(passages)
    judgements = []
    for i in range(queries):
        near = (q[i] @ p.T).topk(40).indices.numpy()
        rows = np.unique(np.concatenate([rng.choice(near, 10), rng.integers(0, passages, 10)]))
        judged = {int(row): int(rng.integers(0, 4)) for row in rows}
        judged[int(near[5])] = 2  # at least one relevant passage
        judgements.append(judged)
    identical = np.full(queries, -1)
    identical[0] = int((q[0] @ p.T).argmax())
    data = sets.Ranking(name="r", queries=["q"] * queries, passages=[], judgements=judgements, identical=identical)
    return data, q, p


def trec_eval(data: sets.Ranking, queries: torch.Tensor, passages: torch.Tensor) -> list[dict[str, float]]:
    """The metrics of each query, by our names."""
    qrels = {f"q{i}": {f"p{row}": grade for row, grade in judged.items()} for i, judged in enumerate(data.judgements)}
    run = {}
    for i in range(len(data)):
        scores = (queries[i].double() @ passages.double().T).tolist()
        run[f"q{i}"] = {f"p{row}": s for row, s in enumerate(scores) if row != data.identical[i]}
    asked = {"ndcg_cut.5,10", "recall.7,10,1000", "P.3,100", "map_cut.1000", "recip_rank"}
    results = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run)
    expected = []
    for i in range(len(data)):
        result = results[f"q{i}"]
        # trec_eval has no cut for the reciprocal rank: below rank 10 it counts nothing.
        mrr = result["recip_rank"] if result["recip_rank"] >= 0.1 else 0.0
        expected.append({ours: result[theirs] for ours, theirs in MEASURES.items()} | {"mrr_at_10": mrr})
    return expected


@pytest.mark.parametrize("seed", range(4))
def test_metrics_of_each_query_equal_trec_eval(seed: int) -> None:
    """Judgements have grades from 0 to 3, passages are left out, and most retrieved ones are not judged."""
    data, queries, passages = make(seed)
    rows = ranking.search(data, queries, passages, 1000)
    judged = ranking.Judged(data)
    for metric in (*MEASURES, "mrr_at_10"):
        ours = judged.values(rows, metric)
        assert ours.tolist() == pytest.approx([one[metric] for one in trec_eval(data, queries, passages)], abs=1e-6)
    assert 0.05 < float(judged.values(rows, "ndcg_at_10").mean()) < 0.95


def test_queries_are_searched_for_in_their_own_range() -> None:
    data, queries, passages = make(2)
    ranges = np.array([[0, 700], [700, 1500]] * 6)
    parts = dataclasses.replace(data, ranges=ranges)
    rows = ranking.search(parts, queries, passages, 1000)
    for i, (first, last) in enumerate(ranges):
        alone = dataclasses.replace(
            data, queries=["q"], judgements=[data.judgements[i]], identical=data.identical[i : i + 1] - first
        )
        expected = ranking.search(alone, queries[i : i + 1], passages[first:last], 1000)[0] + first
        assert torch.equal(rows[i, : last - first], expected)
        assert (rows[i, last - first :] == -1).all()


def plain_search(data: sets.Ranking, queries: torch.Tensor, passages: torch.Tensor, depth: int) -> list[list[int]]:
    """Every score of a query, sorted in one go."""
    found = []
    for query, own in zip(queries, data.identical.tolist(), strict=True):
        scores = (passages @ query).tolist()
        ranked = sorted((row for row in range(len(passages)) if row != own), key=lambda row: -scores[row])
        found.append(ranked[:depth])
    return found


def in_small_chunks(monkeypatch: pytest.MonkeyPatch, first: int, product: torch.dtype) -> None:
    """As of a large corpus; with `first` below 300 scores are expected from a sample of a fifth of the passages."""
    monkeypatch.setattr(ranking, "PASSAGES_PER_FIRST", first)
    monkeypatch.setattr(ranking, "PASSAGES_PER_CHUNK", 130)
    monkeypatch.setattr(ranking, "SAMPLE_PAYS", 5)
    monkeypatch.setattr(ranking, "_product_type", lambda _: product)


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("first", [100, 400])
def test_search_in_chunks_with_and_without_a_sample(
    monkeypatch: pytest.MonkeyPatch, first: int, product: torch.dtype
) -> None:
    data, queries, passages = make(0)
    in_small_chunks(monkeypatch, first, product)
    assert bool((ranking._expected(queries, passages, 20, "dot") > ranking.LOWEST).all()) == (first == 100)
    # In steps of 1/8 all scores are exact, and many are equal only by a copy.
    queries, passages = ((8 * one).round() / 8 for one in (8 * queries, 8 * passages))
    found = ranking.search(data, queries, passages, 20)
    for ours, theirs, query in zip(found.tolist(), plain_search(data, queries, passages, 20), queries, strict=True):
        scores = passages @ query
        assert scores[ours].tolist() == scores[theirs].tolist()
        assert len(set(ours)) == 20
        above = [row for row in theirs if scores[row] > scores[theirs[-1]]]
        assert ours[: len(above)] == above


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_search_by_other_similarities(monkeypatch: pytest.MonkeyPatch, similarity: Any, product: torch.dtype) -> None:
    """Of lengths between 0.5 and 2, against sentence-transformers' scores in float64."""
    data, queries, passages = make(4)
    in_small_chunks(monkeypatch, 100, product)
    passages = passages * torch.linspace(0.5, 2, len(passages))[torch.randperm(len(passages)), None]
    scores = SimilarityFunction.to_similarity_fn(similarity)(queries.double(), passages.double())
    scores[0, data.identical[0]] = float("-inf")
    found = ranking.search(data, queries, passages, 20, similarity=similarity)
    assert (found == scores.topk(20).indices).float().mean() > 0.99  # but for rounding
    assert (found != ranking.search(data, queries, passages, 20)).any() or similarity == "dot"

    low, high = ranking.Found(queries, found), ranking.Found(queries.flip(1), found.flip(0))
    ends = ranking.between(low, high, passages, 20, similarity)
    assert (ends(0.0)[:, :10] == found[:, :10]).float().mean() > 0.99
    if similarity != "manhattan":  # where scores are linear in the query
        middle = SimilarityFunction.to_similarity_fn(similarity)((queries + queries.flip(1)) / 2, passages)
        for ours, scores_of in zip(ends(0.5).tolist(), middle, strict=True):
            assert scores_of[ours].tolist() == sorted(scores_of[ours].tolist(), reverse=True)


@pytest.mark.parametrize("first", [100, 400])
def test_bfloat16_hides_nothing(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """Most scores of a query are equal in bfloat16, and lengths and signs differ. The oracle sorts in float64."""
    data, queries, passages = make(1)
    in_small_chunks(monkeypatch, first, torch.bfloat16)
    lengths = torch.linspace(-2, 2, len(queries))[:, None]
    queries, passages = lengths * queries, 3 * passages[:1] + 1e-3 * passages
    scores = queries.double() @ passages.double().T
    scores[0, data.identical[0]] = float("-inf")
    assert len((queries[0].bfloat16() @ passages.bfloat16().T).unique()) < 100
    found = ranking.search(data, queries, passages, 20)
    assert torch.allclose(scores.gather(1, found), scores.topk(20, dim=1).values, rtol=0, atol=1e-6)


def test_a_sample_that_misleads_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest passages are all that the sample has, so that few of the rest are as near."""
    data, queries, passages = make(0)
    in_small_chunks(monkeypatch, 100, torch.float32)
    sampled: list[torch.Tensor] = []
    expected = ranking._expected

    def of_the_nearest(queries: torch.Tensor, passages: torch.Tensor, depth: int, _: str) -> torch.Tensor:
        sampled.append(expected(queries, passages, depth, "dot"))
        return (queries @ passages.T).topk(depth // 2, dim=1).values[:, -1:]

    monkeypatch.setattr(ranking, "_expected", of_the_nearest)
    assert ranking.search(data, queries, passages, 20).tolist() == plain_search(data, queries, passages, 20)
    assert (sampled[0] > ranking.LOWEST).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_search_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    data, queries, passages = make(3, queries=200, passages=20_000)
    monkeypatch.setattr(ranking, "PASSAGES_PER_FIRST", 1000)
    found = ranking.search(data, queries, passages, 100, torch.device("cuda"))
    assert (found == ranking.search(data, queries, passages, 100)).float().mean() > 0.99  # but for rounding


def test_a_corpus_smaller_than_the_depth() -> None:
    data, queries, passages = make(0, queries=3, passages=60)
    rows = ranking.search(data, queries, passages, 1000)
    assert ranking.Judged(data).values(rows, "recall_at_1000").tolist() == [1.0] * 3


def test_the_querys_own_passage_is_not_returned() -> None:
    data, queries, passages = make(0)
    assert data.identical[0] not in ranking.search(data, queries, passages, 1000)[0].tolist()


def test_equal_scores_keep_the_corpus_order() -> None:
    passages = torch.eye(2).repeat_interleave(500, dim=0)
    data = sets.Ranking(
        name="r", queries=["q"], passages=["p"] * 1000, judgements=[{0: 1}], identical=np.array([-1], dtype=np.int64)
    )
    assert ranking.search(data, torch.tensor([[1.0, 0.0]]), passages, 1000).tolist() == [list(range(1000))]
