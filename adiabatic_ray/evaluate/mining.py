"""Mines hard negatives for the training queries from the untouched encoder's embeddings, by an exact search.

The settings have the names and the meaning that they have in sentence-transformers' `mine_hard_negatives`. A positive
of the query is never its negative, and since each text is one passage of the set, neither is a copy of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets
from adiabatic_ray.data.cache import Table
from adiabatic_ray.evaluate import ranking
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.similarity import pairwise

PER_NEGATIVE = (
    10  # candidates for each negative that is wanted, where `range_max` is not given and some may be left out
)


def mined(
    root: Path,
    train: sets.Triplets,
    queries: Table,
    passages: Table,
    settings: config.Negatives,
    seed: int,
    similarity: config.Similarity,
) -> sets.Triplets:
    """The set with mined negatives, from the cache under `root` if they were mined before.

    `queries` and `passages` are the tables of its queries and its passages.

    Raises:
        DataError: no query has a negative.
    """
    rows = np.concatenate([train.query, train.positive]).tobytes()
    key = (
        f"{Path(queries.folder).name} {Path(passages.folder).name} {settings} {seed} {hashlib.sha256(rows).hexdigest()}"
    )
    path = root / "mined" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    stored = checkpoint.load(path)
    if stored is None:
        stored = checkpoint.Checkpoint(mine(train, queries.open(), passages.open(), settings, seed, similarity), {})
        checkpoint.save(path, stored)
    source, negative = stored.tensors["row"].numpy(), stored.tensors["negative"].numpy()
    without = len(train.first) - len(np.unique(source))
    reason = "no negative that fits `train.negatives`"
    if len(source) == 0:
        raise errors.DataError(
            f"train: mining found no negative for any of {len(train.first):,} rows. Raise `range_max`, or lower the "
            "margins, of `train.negatives`."
        )
    return dataclasses.replace(
        train,
        query=train.query[source],
        positive=train.positive[source],
        negative=negative,
        example=source,
        margins=None,
        language=train.language.take(source) if train.language else None,
        text_language=train.text_language.take(source) if train.text_language else None,
        dropped={**train.dropped, **({reason: without} if without else {})},
    )


def mine(
    train: sets.Triplets,
    queries: Tensor,
    passages: Tensor,
    settings: config.Negatives,
    seed: int,
    similarity: config.Similarity = "cosine",
) -> dict[str, Tensor]:
    """Mine negatives: `row`, of each example its first triplet, with a `negative`, a row of passages; both `[m]`."""
    data = sets.as_ranking(train)
    own = np.unique(train.query)  # the rows of its queries, in its order
    most = max(len(judged) for judged in data.judgements)
    last = _range_max(settings, most)
    embedded = queries[torch.from_numpy(own)]
    rows = ranking.search(data, embedded, passages, last + most, similarity=similarity)
    kept = _kept(data, embedded, rows, passages, settings, similarity)
    place = kept.cumsum(1)  # among those that are kept, from 1
    candidates = kept & (place > settings.range_min) & (place <= last)
    if settings.sampling_strategy == "top":
        chosen = candidates & (place <= settings.range_min + settings.num_negatives)
    else:
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(candidates.shape, generator=generator).masked_fill(~candidates, -1.0)
        nth = draw.sort(dim=1, descending=True).values[:, [min(settings.num_negatives, draw.shape[1]) - 1]]
        chosen = candidates & (draw >= nth)
    mine_of = [rows[i][chosen[i]] for i in range(len(data))]
    examples = list(zip(train.first.tolist(), np.searchsorted(own, train.query[train.first]), strict=True))
    row = [number for number, query in examples for _ in mine_of[query]]
    negative = [mine_of[query] for _, query in examples]
    return {"row": torch.tensor(row, dtype=torch.long), "negative": torch.cat(negative)}


def _range_max(settings: config.Negatives, positives: int) -> int:
    """How many passages are looked at, as sentence-transformers chooses it where it is not given."""
    if settings.range_max is not None:
        return settings.range_max
    filtered = (settings.absolute_margin, settings.relative_margin, settings.max_score)
    each = PER_NEGATIVE if any(one is not None for one in filtered) else 1
    return settings.range_min + settings.num_negatives * each + positives


def _kept(
    data: sets.Ranking,
    queries: Tensor,
    rows: Tensor,
    passages: Tensor,
    settings: config.Negatives,
    similarity: config.Similarity,
) -> Tensor:
    """Which of the passages that were found may be negatives, `[n, depth]` (bool)."""
    kept = torch.empty(rows.shape, dtype=torch.bool)
    for i, judged in enumerate(data.judgements):
        positives = torch.tensor(list(judged))
        scores = pairwise(queries[i], passages[rows[i].clamp(min=0)], similarity)
        # Of several positives the one that is hardest to find counts.
        lowest = pairwise(queries[i], passages[positives], similarity).min()
        keep = (rows[i] >= 0) & ~torch.isin(rows[i], positives)
        if settings.absolute_margin is not None:
            keep &= scores + settings.absolute_margin <= lowest
        if settings.relative_margin is not None:
            keep &= scores <= lowest - lowest.abs() * settings.relative_margin
        if settings.max_score is not None:
            keep &= scores <= settings.max_score
        if settings.min_score is not None:
            keep &= scores >= settings.min_score
        kept[i] = keep
    return kept
