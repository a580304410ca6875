"""Ranking metrics against trec_eval's own code."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
import torch

from adiabatic_ray.data import sets
from adiabatic_ray.evaluate import ranking

MEASURES = {
    "ndcg_at_10": "ndcg_cut_10",
    "recall_at_10": "recall_10",
    "recall_at_100": "recall_100",
    "recall_at_1000": "recall_1000",
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


def trec_eval(data: sets.Ranking, queries: torch.Tensor, passages: torch.Tensor) -> dict[str, float]:
    qrels = {f"q{i}": {f"p{row}": grade for row, grade in judged.items()} for i, judged in enumerate(data.judgements)}
    run = {}
    for i in range(len(data)):
        scores = (queries[i].double() @ passages.double().T).tolist()
        run[f"q{i}"] = {f"p{row}": s for row, s in enumerate(scores) if row != data.identical[i]}
    results = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut", "recall", "recip_rank"}).evaluate(run)
    means = {ours: sum(r[theirs] for r in results.values()) / len(results) for ours, theirs in MEASURES.items()}
    # trec_eval has no cut for the reciprocal rank: below rank 10 it counts nothing.
    means["mrr_at_10"] = sum(r["recip_rank"] if r["recip_rank"] >= 0.1 else 0.0 for r in results.values()) / len(
        results
    )
    return means


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_trec_eval(seed: int) -> None:
    data, queries, passages = make(seed)
    ours, expected = ranking.metrics(data, queries, passages), trec_eval(data, queries, passages)
    assert ours == {name: pytest.approx(value, abs=1e-6) for name, value in expected.items()}
    assert 0.05 < ours["ndcg_at_10"] < 0.95


def test_search_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    data, queries, passages = make(0)
    whole = ranking.search(data, queries, passages, 100)
    monkeypatch.setattr(ranking, "PASSAGES_PER_CHUNK", 130)
    assert torch.equal(ranking.search(data, queries, passages, 100), whole)


def test_a_corpus_smaller_than_the_depth() -> None:
    data, queries, passages = make(0, queries=3, passages=60)
    assert ranking.metrics(data, queries, passages)["recall_at_1000"] == 1.0


def test_the_querys_own_passage_is_not_returned() -> None:
    data, queries, passages = make(0)
    assert data.identical[0] not in ranking.search(data, queries, passages, 1000)[0].tolist()


def test_equal_scores_keep_the_corpus_order() -> None:
    passages = torch.eye(2).repeat_interleave(500, dim=0)
    data = sets.Ranking(
        name="r", queries=["q"], passages=["p"] * 1000, judgements=[{0: 1}], identical=np.array([-1], dtype=np.int64)
    )
    assert ranking.search(data, torch.tensor([[1.0, 0.0]]), passages, 1000).tolist() == [list(range(1000))]
