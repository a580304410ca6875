"""nDCG, MRR and recall of an exact search over frozen embeddings, as trec_eval and BEIR compute them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adiabatic_ray.data.sets import Ranking

DEPTHS = (10, 100, 1000)
MEASURES = ("ndcg_at_10", "mrr_at_10", *(f"recall_at_{depth}" for depth in DEPTHS))
QUERIES_PER_BLOCK, PASSAGES_PER_CHUNK = 256, 65_536  # bound the memory of a block of scores


def search(data: Ranking, queries: Tensor, passages: Tensor, depth: int) -> Tensor:
    """Rows `[n, depth]` of the passages with the highest cosine to each query, best first.

    The passage of `data.identical` is left out, as in BEIR.
    """
    depth, identical = min(depth, len(passages)), torch.from_numpy(data.identical)
    blocks = [slice(start, start + QUERIES_PER_BLOCK) for start in range(0, len(queries), QUERIES_PER_BLOCK)]
    return torch.cat([_search(queries[block], identical[block], passages, depth) for block in blocks])


def _search(queries: Tensor, identical: Tensor, passages: Tensor, depth: int) -> Tensor:
    best_scores = torch.empty(len(queries), 0)
    best_rows = torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(passages), PASSAGES_PER_CHUNK):
        scores = queries @ passages[start : start + PASSAGES_PER_CHUNK].T
        here = (identical >= start) & (identical < start + scores.shape[1])
        scores[here.nonzero()[:, 0], identical[here] - start] = float("-inf")
        rows = torch.arange(start, start + scores.shape[1]).expand_as(scores)
        scores, rows = torch.cat([best_scores, scores], dim=1), torch.cat([best_rows, rows], dim=1)
        best_scores, chosen = scores.topk(min(depth, scores.shape[1]), dim=1)
        best_rows = rows.gather(1, chosen)
    # `topk` leaves the order of equal scores open; here the passage that comes first in the corpus goes first.
    best_rows, by_row = best_rows.sort(dim=1)
    return best_rows.gather(1, best_scores.gather(1, by_row).argsort(dim=1, descending=True, stable=True))


def metrics(data: Ranking, queries: Tensor, passages: Tensor) -> dict[str, float]:
    """Means over all queries: `ndcg_at_10` with linear gains, `mrr_at_10`, and `recall_at_k`.

    A passage with a grade above 0 is relevant.
    """
    ranked = search(data, queries, passages, max(DEPTHS)).tolist()
    judged = list(zip(ranked, data.judgements, strict=True))
    totals = [sum(_ndcg(rows[:10], grades) for rows, grades in judged)]
    totals.append(sum(_mrr(rows[:10], grades) for rows, grades in judged))
    totals += [sum(_recall(rows[:depth], grades) for rows, grades in judged) for depth in DEPTHS]
    return {measure: total / len(data) for measure, total in zip(MEASURES, totals, strict=True)}


def _dcg(grades: list[int]) -> float:
    return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(grades))


def _ndcg(ranked: list[int], judged: dict[int, int]) -> float:
    grades = [max(0, judged.get(row, 0)) for row in ranked]
    ideal = sorted((max(0, grade) for grade in judged.values()), reverse=True)[: len(ranked)]
    return _dcg(grades) / _dcg(ideal)


def _mrr(ranked: list[int], judged: dict[int, int]) -> float:
    return next((1.0 / rank for rank, row in enumerate(ranked, start=1) if judged.get(row, 0) > 0), 0.0)


def _recall(ranked: list[int], judged: dict[int, int]) -> float:
    relevant = {row for row, grade in judged.items() if grade > 0}
    return len(relevant.intersection(ranked)) / len(relevant)
