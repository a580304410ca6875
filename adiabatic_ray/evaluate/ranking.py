"""Exact search over frozen embeddings, and the metrics of its rankings by query, as trec_eval and BEIR compute them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.data.sets import Ranking
from adiabatic_ray.model.similarity import all_pairs, as_factors, as_products, pairwise

MEASURES = ("ndcg_at_10", "mrr_at_10", "recall_at_10", "recall_at_100", "recall_at_1000")  # reported of every set
MAP_DEPTH = 1000  # passages that are retrieved for `map`, as in BEIR
POOL = 100  # of each search, the first passages that a prediction ranks
QUERIES_PER_BLOCK, PASSAGES_PER_CHUNK = 4096, 1024  # a block of products fits in a CPU's cache
PASSAGES_PER_FIRST = 8192  # of a chunk before anything is known of the best scores
QUERIES_PER_GATHER = 256  # of which all passages that were found are copied
COLUMNS_PER_GROUP = 16  # of a block of scores, of which the highest is looked at first
PASSAGES_PER_SAMPLE, SAMPLE_PAYS = 65_536, 16  # the most, and that it is at most a sixteenth of the passages
LOWEST = torch.finfo(torch.float32).min
CPU = torch.device("cpu")

Array: TypeAlias = npt.NDArray[np.float64]


def search(
    data: Ranking,
    queries: Tensor,
    passages: Tensor,
    depth: int,
    device: torch.device = CPU,
    similarity: config.Similarity = "cosine",
) -> Tensor:
    """Rows `[n, depth]` of the passages with the highest score for each query, best first.

    Each query is searched for in the passages of its own language, where these have languages. The passage of
    `data.identical` is left out, as in BEIR. Where there are fewer passages than `depth`, the last rows are -1. The
    passages, which may be memory-mapped, pass through `device` in chunks; it is a CPU or a CUDA device, else a CPU.

    Euclidean distances are searched as dot products with one more dimension. Manhattan distances are computed all.
    """
    device = device if device.type == "cuda" else CPU
    depth = min(depth, len(passages))
    found = torch.full((len(queries), depth), -1)
    for rows, (first, last) in _searched(data, len(passages)):
        identical = torch.from_numpy(data.identical)[rows] - first
        for block in range(0, len(rows), QUERIES_PER_BLOCK):
            part = slice(block, block + QUERIES_PER_BLOCK)
            some = as_factors(queries[rows[part]].to(device), similarity), identical[part].to(device)
            best = _search(*some, passages[first:last], min(depth, last - first), similarity).cpu()
            found[rows[part], : best.shape[1]] = torch.where(best < 0, -1, best + first)
    return found


def _searched(data: Ranking, count: int) -> list[tuple[Tensor, tuple[int, int]]]:
    """The rows of queries that share a range of passages, and that range."""
    if data.ranges is None:
        return [(torch.arange(len(data)), (0, count))]
    ranges, group = np.unique(data.ranges, axis=0, return_inverse=True)
    return [(torch.from_numpy(np.flatnonzero(group.ravel() == i)), (a, b)) for i, (a, b) in enumerate(ranges.tolist())]


def _search(queries: Tensor, identical: Tensor, passages: Tensor, depth: int, similarity: config.Similarity) -> Tensor:
    """Rows `[n, depth]` of the nearest passages; -1 where there are no more.

    Only scores as high as a sample of the passages leads to expect are looked at, and it is seen whether they suffice.
    """
    least = _expected(queries, passages, depth, similarity)
    rows = _at_least(least, queries, identical, passages, depth, similarity)
    few = ((rows < 0).any(1) & (least[:, 0] > LOWEST)).nonzero()[:, 0]
    if len(few):
        lowest = torch.full_like(least[few], LOWEST)
        rows[few] = _at_least(lowest, queries[few], identical[few], passages, depth, similarity)
    return rows


def _expected(queries: Tensor, passages: Tensor, depth: int, similarity: config.Similarity) -> Tensor:
    """Scores `[n, 1]` that at least `depth` passages are expected to have; the lowest of all where it does not pay.

    In a random sample the number of the `depth` best has about a Poisson distribution. Of 2,000 queries one finds too
    few passages above a score that lies 3.3 of its deviations lower.
    """
    size = min(PASSAGES_PER_SAMPLE, len(passages) // SAMPLE_PAYS)
    expected = depth * size / len(passages)
    enough = math.ceil(expected + 3.3 * math.sqrt(expected)) + 1
    if size < PASSAGES_PER_FIRST or enough > size // SAMPLE_PAYS or similarity == "manhattan":
        return torch.full((len(queries), 1), LOWEST, device=queries.device)
    sample = torch.randint(len(passages), (size,), generator=torch.Generator().manual_seed(0)).sort().values
    dtype = _product_type(queries.device)
    drawn = as_products(passages[sample].to(queries.device), similarity).to(dtype)
    best = [(some @ drawn.T).topk(enough, dim=1).values[:, -1:] for some in torch.split(queries.to(dtype), 1024)]
    return torch.cat(best).float()


def _at_least(
    least: Tensor, queries: Tensor, identical: Tensor, passages: Tensor, depth: int, similarity: config.Similarity
) -> Tensor:
    """Rows `[n, depth]` of the nearest passages whose scores are at least `least` `[n, 1]`; -1 where there are no more.

    Once `depth` passages are known, nothing worse than they is looked at any more.
    """
    screen, best = _Screen(queries), _Best(least, depth)
    start = 0
    while start < len(passages):
        any_score = similarity == "manhattan" or bool((best.least == LOWEST).any())
        chunk = passages[start : start + (PASSAGES_PER_FIRST if any_score else PASSAGES_PER_CHUNK)].to(queries.device)
        chunk = as_products(chunk, similarity)
        if any_score:
            scores = all_pairs(queries, chunk, "manhattan" if similarity == "manhattan" else "dot")
            here = (identical >= start) & (identical < start + len(chunk))
            scores[here.nonzero()[:, 0], identical[here] - start] = float("-inf")
            near, columns = scores.topk(min(depth, len(chunk)), dim=1)
            row = torch.arange(len(queries), device=queries.device).repeat_interleave(near.shape[1])
            best.add(row, near.ravel(), columns.ravel() + start)
            best.keep()
        else:
            row, column = screen.pairs(chunk, best.least)
            near = _products(queries, chunk, row, column)
            hit = (near >= best.least[row, 0]) & (column + start != identical[row])
            best.add(row[hit], near[hit], column[hit] + start)
        start += len(chunk)
    return best.ranked()


class _Screen:
    """Finds the pairs of a query and a passage whose product may be at least so high, and surely all of those.

    The products are in bfloat16 where the machine multiplies in it, which takes half the time of float32 or less. Each
    differs from the exact one by at most the lengths of what rounding takes away, times those of the others (Cauchy and
    Schwarz), and by what adding up loses. The rounding of the result is that of the bound.
    """

    def __init__(self, queries: Tensor) -> None:
        self._queries = queries.to(_product_type(queries.device))
        self._length = queries.norm(dim=1, keepdim=True)
        self._lost = (queries - self._queries.float()).norm(dim=1, keepdim=True)

    def pairs(self, passages: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """The queries, in ascending order, and the passages of all pairs of at least `least` `[n, 1]`, and of some."""
        padded = torch.nn.functional.pad(passages, (0, 0, 0, -len(passages) % COLUMNS_PER_GROUP))
        rounded = padded.to(self._queries.dtype)
        longest, lost = passages.norm(dim=1).max(), (padded - rounded.float()).norm(dim=1).max()
        added_up = passages.shape[1] * 2.0**-22 * self._length * longest
        slack = self._lost * (longest + lost) + (self._length + self._lost) * lost + added_up
        bound = (least - slack).to(self._queries.dtype)
        # Columns are looked at in groups, by the highest product of each: nearly none has a pair.
        groups = (self._queries @ rounded.T).view(len(self._queries), COLUMNS_PER_GROUP, -1)
        row, group = (groups.amax(1) >= bound).nonzero(as_tuple=True)
        hit, place = (groups[row, :, group] >= bound[row]).nonzero(as_tuple=True)
        row, column = row[hit], place * groups.shape[2] + group[hit]
        real = column < len(passages)
        return row[real], column[real]


def _products(queries: Tensor, passages: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The products of these rows of queries, in ascending order, and of passages: `[len(row)]`."""
    ends = torch.bincount(row, minlength=len(queries)).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        wanted = torch.sparse_csr_tensor(
            torch.nn.functional.pad(ends, (1, 0)),
            column,
            torch.zeros(len(row), device=row.device),
            (len(queries), len(passages)),
            check_invariants=False,
        )
        products: Tensor = torch.sparse.sampled_addmm(wanted, queries, passages.T).values()
        return products


def _product_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has instructions that multiply in it, else float32."""
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = known.get("avx512_bf16") or known.get("amx_bf16") if device.type == "cpu" else device.type == "cuda"
    return torch.bfloat16 if fast else torch.float32


class _Best:
    """The `depth` best passages of each query among those that were added, and the score that others need."""

    def __init__(self, least: Tensor, depth: int) -> None:
        self.least, self.depth = least, depth
        shape = len(least), 2 * depth + PASSAGES_PER_CHUNK
        self._scores = torch.full(shape, float("-inf"), device=least.device)
        self._rows = torch.full(shape, -1, device=least.device)
        self._counts = torch.zeros(len(least), dtype=torch.long, device=least.device)

    def add(self, query: Tensor, score: Tensor, passage: Tensor) -> None:
        """Add pairs of a query and a passage, in the order of the queries."""
        added = torch.bincount(query, minlength=len(self._counts))
        place = torch.arange(len(query), device=query.device) + (self._counts + added - added.cumsum(0))[query]
        self._scores[query, place], self._rows[query, place] = score, passage
        self._counts += added
        if self._counts.max() > 1.5 * self.depth:
            self.keep()

    def keep(self) -> None:
        """Forget all but the best."""
        scores, chosen = self._scores.topk(self.depth, dim=1)
        rows = self._rows.gather(1, chosen)
        self._scores.fill_(float("-inf"))
        self._scores[:, : self.depth], self._rows[:, : self.depth] = scores, rows
        self._counts.clamp_(max=self.depth)
        self.least = torch.maximum(self.least, scores[:, -1:])

    def ranked(self) -> Tensor:
        """Their rows `[n, depth]`, best first, -1 where there are no more.

        `topk` leaves the order of equal scores open; here the passage that comes first in the corpus goes first.
        """
        self.keep()
        rows, by_row = self._rows[:, : self.depth].sort(dim=1)
        scores = self._scores[:, : self.depth].gather(1, by_row)
        rows = rows.masked_fill(scores.isinf(), -1)
        return rows.gather(1, scores.argsort(dim=1, descending=True, stable=True))


def depth(metrics: Iterable[str]) -> int:
    """How many passages the metrics look at."""
    return max(MAP_DEPTH if metric == "map" else config.metric_depth(metric) for metric in metrics)


@dataclass(frozen=True)
class Found:
    """The rows `[n, depth]` that a search found for the embeddings `[n, d]` of queries, best first."""

    queries: Tensor
    rows: Tensor


def between(
    low: Found, high: Found, passages: Tensor, depth: int, similarity: config.Similarity = "cosine"
) -> Callable[[float], Tensor]:
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
            near, queries = passages[pool[block].clamp(min=0)], one.queries[block, None]
            if similarity == "manhattan":
                scores[block] = pairwise(queries, near, similarity)
            else:
                near, queries = as_products(near, similarity), as_factors(queries, similarity)
                scores[block] = torch.bmm(near, queries.mT)[:, :, 0]
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
