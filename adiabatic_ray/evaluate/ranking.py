"""Exact search over frozen embeddings, and the metrics of its rankings by query, as trec_eval and BEIR compute them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.data.sets import Ranking

MEASURES = ("ndcg_at_10", "mrr_at_10", "recall_at_10", "recall_at_100", "recall_at_1000")  # reported of every set
MAP_DEPTH = 1000  # passages that are retrieved for `map`, as in BEIR
POOL = 100  # of each search, the first passages that a prediction ranks
QUERIES_PER_BLOCK, PASSAGES_PER_CHUNK = 1024, 4096  # a block of scores fits in a CPU's cache
QUERIES_PER_GATHER = 256  # of which all passages that were found are copied
COLUMNS_PER_GROUP = 16  # of a block of scores, of which the highest is looked at first
PASSAGES_PER_SAMPLE, SAMPLE_PAYS = 16_384, 8  # where it is at most an eighth of the passages
LOWEST = torch.finfo(torch.float32).min

Array: TypeAlias = npt.NDArray[np.float64]


def search(data: Ranking, queries: Tensor, passages: Tensor, depth: int) -> Tensor:
    """Rows `[n, depth]` of the passages with the highest score for each query, best first.

    Each query is searched for in the passages of its own language, where these have languages. The passage of
    `data.identical` is left out, as in BEIR. Where there are fewer passages than `depth`, the last rows are -1.
    """
    depth = min(depth, len(passages))
    found = torch.full((len(queries), depth), -1)
    for rows, (first, last) in _searched(data, len(passages)):
        identical = torch.from_numpy(data.identical)[rows] - first
        for block in range(0, len(rows), QUERIES_PER_BLOCK):
            part = slice(block, block + QUERIES_PER_BLOCK)
            best = _search(queries[rows[part]], identical[part], passages[first:last], depth)
            found[rows[part], : best.shape[1]] = torch.where(best < 0, -1, best + first)
    return found


def _searched(data: Ranking, count: int) -> list[tuple[Tensor, tuple[int, int]]]:
    """The rows of queries that share a range of passages, and that range."""
    if data.ranges is None:
        return [(torch.arange(len(data)), (0, count))]
    ranges, group = np.unique(data.ranges, axis=0, return_inverse=True)
    return [(torch.from_numpy(np.flatnonzero(group.ravel() == i)), (a, b)) for i, (a, b) in enumerate(ranges.tolist())]


def _search(queries: Tensor, identical: Tensor, passages: Tensor, depth: int) -> Tensor:
    """Rows `[n, depth]` of the nearest passages; -1 where there are no more.

    Only scores as high as a sample of the passages leads to expect are looked at, and it is seen whether they suffice.
    """
    least = _expected(queries, passages, depth)
    rows = _at_least(least, queries, identical, passages, depth)
    few = ((rows < 0).any(1) & (least[:, 0] > LOWEST)).nonzero()[:, 0]
    if len(few):
        any_score = torch.full((len(few), 1), LOWEST)
        rows[few] = _at_least(any_score, queries[few], identical[few], passages, depth)
    return rows


def _expected(queries: Tensor, passages: Tensor, depth: int) -> Tensor:
    """Scores `[n, 1]` that at least `depth` passages are expected to have; the lowest of all where it does not pay.

    In a random sample the number of the `depth` best has about a Poisson distribution. Of a million queries three find
    too few passages above a score that lies five of its deviations lower.
    """
    expected = depth * PASSAGES_PER_SAMPLE / len(passages)
    enough = math.ceil(expected + 5 * math.sqrt(expected)) + 1
    if enough > PASSAGES_PER_SAMPLE // SAMPLE_PAYS or len(passages) < SAMPLE_PAYS * PASSAGES_PER_SAMPLE:
        return torch.full((len(queries), 1), LOWEST)
    sample = torch.randint(len(passages), (PASSAGES_PER_SAMPLE,), generator=torch.Generator().manual_seed(0))
    return (queries @ passages[sample.sort().values].T).topk(enough, dim=1).values[:, -1:]


def _at_least(least: Tensor, queries: Tensor, identical: Tensor, passages: Tensor, depth: int) -> Tensor:
    """Rows `[n, depth]` of the nearest passages whose scores are at least `least` `[n, 1]`; -1 where there are no more.

    The hits of a chunk are only collected. When there are many, the best are kept, and nothing worse is a hit any more.
    """
    width = min(PASSAGES_PER_CHUNK, len(passages))
    scores = torch.empty(len(queries), math.ceil(width / COLUMNS_PER_GROUP) * COLUMNS_PER_GROUP)
    best_scores = torch.empty(len(queries), 0)
    best_rows = torch.empty(len(queries), 0, dtype=torch.long)
    hits: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(passages), width):
        chunk = passages[start : start + width]
        torch.mm(queries, chunk.T, out=scores[:, : len(chunk)])
        scores[:, len(chunk) :] = float("-inf")
        here = (identical >= start) & (identical < start + len(chunk))
        scores[here.nonzero()[:, 0], identical[here] - start] = float("-inf")
        any_score = bool((least == LOWEST).any())
        near, columns = scores.topk(min(depth, scores.shape[1]), dim=1) if any_score else _hits(scores, least)
        hits.append((near, columns + start))
        if any_score or sum(near.shape[1] for near, _ in hits) >= 2 * depth or start + width >= len(passages):
            best_rows = torch.cat([best_rows, *(rows for _, rows in hits)], dim=1)
            best_scores = torch.cat([best_scores, *(near for near, _ in hits)], dim=1)
            best_scores, chosen = best_scores.topk(min(depth, best_rows.shape[1]), dim=1)
            best_rows = best_rows.gather(1, chosen)
            hits = []
            if best_scores.shape[1] == depth:
                least = torch.maximum(least, best_scores[:, -1:])
    # `topk` leaves the order of equal scores open; here the passage that comes first in the corpus goes first.
    best_rows, by_row = best_rows.sort(dim=1)
    best_scores = best_scores.gather(1, by_row)
    best_rows = best_rows.masked_fill(best_scores.isinf(), -1)
    best_rows = best_rows.gather(1, best_scores.argsort(dim=1, descending=True, stable=True))
    return torch.nn.functional.pad(best_rows, (0, depth - best_rows.shape[1]), value=-1)


def _hits(scores: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of at least `least` `[n, 1]` in each row, filled up with minus infinity to one width; their columns.

    Columns are looked at in groups, by the highest score of each: nearly none has a hit.
    """
    groups = scores.view(len(scores), COLUMNS_PER_GROUP, -1)
    row, group = (groups.amax(1) >= least).nonzero(as_tuple=True)
    near = groups[row, :, group]
    hit, place_in_group = (near >= least[row]).nonzero(as_tuple=True)
    found, row, column = near[hit, place_in_group], row[hit], place_in_group * groups.shape[2] + group[hit]
    counts = torch.bincount(row, minlength=len(scores))
    place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    near = torch.full((len(scores), int(counts.max())), float("-inf"))
    columns = torch.zeros(near.shape, dtype=torch.long)
    near[row, place], columns[row, place] = found, column
    return near, columns


def depth(metrics: Iterable[str]) -> int:
    """How many passages the metrics look at."""
    return max(MAP_DEPTH if metric == "map" else config.metric_depth(metric) for metric in metrics)


@dataclass(frozen=True)
class Found:
    """The rows `[n, depth]` that a search found for the embeddings `[n, d]` of queries, best first."""

    queries: Tensor
    rows: Tensor


def between(low: Found, high: Found, passages: Tensor, depth: int) -> Callable[[float], Tensor]:
    """Predict what a search finds for queries on the straight line from those of `low` (0) to those of `high` (1).

    Returns a function from the place on the line to rows `[n, depth]`, best first. It ranks what either search found in
    its first passages, of which the scores are linear in the query, so that no other passage is looked at.
    """
    width = max(POOL, depth)
    pool = torch.cat([low.rows[:, :width], high.rows[:, :width]], dim=1).sort(dim=1).values
    repeated = torch.nn.functional.pad(pool[:, 1:] == pool[:, :-1], (1, 0)) | (pool < 0)
    ends = []
    for one in (low, high):
        scores = torch.empty(pool.shape)
        for start in range(0, len(pool), QUERIES_PER_GATHER):
            block = slice(start, start + QUERIES_PER_GATHER)
            near = passages[pool[block].clamp(min=0)]
            scores[block] = torch.bmm(near, one.queries[block, :, None])[:, :, 0]
        ends.append(scores.masked_fill(repeated, float("-inf")))
    pool = pool.masked_fill(repeated, -1)

    def predict(share: float) -> Tensor:
        # Two ends of minus infinity have no line between them.
        scores = torch.lerp(ends[0], ends[1], share).masked_fill(repeated, float("-inf"))
        return pool.gather(1, scores.argsort(dim=1, descending=True, stable=True)[:, :depth])

    return predict


class Judged:
    """The judgements of a ranking set as arrays, for the metrics of many rankings of it."""

    def __init__(self, data: Ranking) -> None:
        judged = enumerate(data.judgements)
        pairs = sorted((i << 32 | row, max(0, grade)) for i, grades in judged for row, grade in grades.items())
        self._keys, self._grades = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        per_query = [sorted((grade for grade in j.values() if grade > 0), reverse=True) for j in data.judgements]
        self._relevant = np.array([len(grades) for grades in per_query])
        self._ideal = np.zeros((len(data), max(map(len, per_query), default=0)))
        for i, grades in enumerate(per_query):
            self._ideal[i, : len(grades)] = grades

    def values(self, ranked: Tensor, metric: str) -> Tensor:
        """A metric of each query's ranking, `[n]` (float64), from the rows `[n, depth]` of its passages, best first.

        `ndcg_at_k` has linear gains. A passage with a grade above 0 is relevant. Rows of -1 are no passages.
        """
        name, cut = metric.partition("_at_")[0], depth([metric])
        grades = self._of(ranked[:, :cut].numpy())
        hits = grades > 0
        if name == "ndcg":
            return torch.from_numpy(_dcg(grades) / _dcg(self._ideal[:, :cut]))
        ranks = np.arange(1, 1 + hits.shape[1])
        values = {
            "mrr": lambda: (hits / ranks).max(1, initial=0.0),
            "recall": lambda: hits.sum(1) / self._relevant,
            "precision": lambda: hits.sum(1) / cut,
            "map": lambda: (hits * hits.cumsum(1) / ranks).sum(1) / self._relevant,
        }
        return torch.from_numpy(values[name]())

    def _of(self, ranked: npt.NDArray[np.int64]) -> Array:
        """The grades of ranked rows, 0 where they are not judged or below 0."""
        wanted = (np.arange(len(ranked))[:, None] << 32) | np.maximum(ranked, 0)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        grades: Array = np.where((self._keys[at] == wanted) & (ranked >= 0), self._grades[at], 0).astype(float)
        return grades


def _dcg(grades: Array) -> Array:
    discounted: Array = grades @ (1 / np.log2(np.arange(grades.shape[1]) + 2))
    return discounted
