"""What a confirmation set can prove: estimated before a sweep starts, from a sample of the set."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.data.sets import DataSet, Languages, Ranking, Rows, Triplets, Xnli
from adiabatic_ray.evaluate import discordance, guarantee, ranking
from adiabatic_ray.evaluate.evidence import Evidence
from adiabatic_ray.model.encoder import Encoder

TEXTS = 2000  # the most texts that a sample embeds
PASSAGES_PER_QUERY = 7  # of a sample of a ranking set
# How far the noise moves a query. In the pocket world a distance of 0.1 changes 5.5% as many outcomes as the untouched
# encoder gets wrong, and 0.2 changes 10.5%. Trials at their edges change 6 to 14% there.
MOVED, DRAWS = 0.15, 4


def smallest_margins(
    guard: DataSet, model: Encoder, alpha: float, metric: str = config.IMPROVEMENT, seed: int = 0
) -> guarantee.Margins:
    """The smallest margins that an encoder passes with a probability of 80% if it changes nothing but noise.

    A sample of the set is embedded, and stands for all of it. The noise moves the queries' embeddings at random. For
    rankings it is a lower bound: among the few passages of a sample noise changes less than in the whole corpus.
    """
    sample = _ranking_sample(guard, seed) if isinstance(guard, Ranking) else _sample(guard)
    queries, passages = model.encode(sample.queries, "query"), model.encode(sample.passages, "passage")
    generator = torch.Generator().manual_seed(seed)
    moved = [guarantee.noisy(queries, MOVED, generator) for _ in range(DRAWS)]
    base, *noisy = (
        _enlarged(_values(sample, one, passages, metric, model.similarity), len(guard)) for one in (queries, *moved)
    )
    language = None
    if not isinstance(sample, Xnli) and sample.language:
        language = sample.language.take(np.resize(np.arange(len(sample)), len(guard)))  # repeated as the values are
    draws = [Evidence(base, one, guard.languages, language) for one in noisy]
    return guarantee.smallest_margins(draws, alpha, seed=seed)


def _values(data: DataSet, queries: Tensor, passages: Tensor, metric: str, similarity: config.Similarity) -> Tensor:
    """The outcomes of a set, or the metric of each query."""
    if isinstance(data, Ranking):
        found = ranking.search(data, queries, passages, ranking.depth([metric]), similarity=similarity)
        return ranking.Judged(data).values(found, metric).float()
    return discordance.outcomes(discordance.leads(data, queries, passages, similarity))


def _sample(guard: Triplets | Xnli) -> Triplets | Xnli:
    """Premises or triplets from all over a set, as many as `TEXTS` allows, with their texts."""
    changes: dict[str, list[str] | Rows | Languages | None] = {}
    if isinstance(guard, Triplets):
        fields, texts = {"query": "queries", "positive": "passages", "negative": "passages"}, 3
    else:
        fields = {"premise": "queries"} | dict.fromkeys(("entailment", "neutral", "contradiction"), "passages")
        texts = 4 * len(guard.languages)
    units = _evenly(len(guard), max(2, TEXTS // texts))
    if isinstance(guard, Triplets):
        changes["language"] = guard.language.take(units) if guard.language else None
        changes["text_language"] = None  # no margin is of one
    kept = {name: getattr(guard, name)[units] for name in fields}
    for side in ("queries", "passages"):
        names = [name for name in fields if fields[name] == side]
        rows, places = np.unique(np.stack([kept[name] for name in names]), return_inverse=True)
        changes[side] = [getattr(guard, side)[row] for row in rows]
        changes |= dict(zip(names, places.reshape(len(names), *kept[names[0]].shape), strict=True))
    return dataclasses.replace(guard, **changes)  # type: ignore[arg-type]


def _ranking_sample(guard: Ranking, seed: int) -> Ranking:
    """Queries from all over a set, with their judged passages and others at random, as many as `TEXTS` allows."""
    units = _evenly(len(guard), max(2, TEXTS // (1 + PASSAGES_PER_QUERY)))
    judged = np.unique([row for unit in units for row in guard.judgements[unit]])
    others = np.setdiff1d(np.arange(len(guard.passages)), judged)
    free = max(0, min(len(others), PASSAGES_PER_QUERY * len(units) - len(judged)))
    rows = np.union1d(judged, np.random.default_rng(seed).choice(others, free, replace=False)).astype(np.int64)
    place = {row: number for number, row in enumerate(rows.tolist())}
    return dataclasses.replace(
        guard,
        queries=[guard.queries[unit] for unit in units],
        passages=[guard.passages[row] for row in rows],
        judgements=[{place[row]: grade for row, grade in guard.judgements[unit].items()} for unit in units],
        identical=np.array([place.get(row, -1) for row in guard.identical[units].tolist()]),
        language=guard.language.take(units) if guard.language else None,
        text_language=None,  # no margin is of one
        ranges=None if guard.ranges is None else np.searchsorted(rows, guard.ranges[units]),
    )


def _evenly(count: int, most: int) -> Rows:
    """Numbers below `count`, at most so many, at equal distances."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _enlarged(values: Tensor, n: int) -> Tensor:
    """The values repeated up to `n` units. A bootstrap of these draws `n` units of the sample."""
    return values.repeat(-(-n // len(values)), *[1] * (values.dim() - 1))[:n]
