"""Positive-negative discordance: a triplet is discordant when its negative scores at least as high as its positive.

A triplet's *lead* is how much higher its positive scores: `q . (p - n)` by dot products, and so by cosines, since these
are of embeddings of unit length. By Euclidean distances it is half the difference of their squares, `(q - (p + n) / 2)
. (p - n)`, which has the same sign and is linear in the query, too. A negative equal to the positive is an exact tie in
all of them, and so discordant.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.data.sets import Triplets, Xnli
from adiabatic_ray.evaluate import evidence, significance
from adiabatic_ray.model.similarity import all_pairs, pairwise

ROWS_PER_CHUNK = 65_536  # bounds the memory of gathered embeddings

COLUMNS = ("dataset", "comparison", "query_language", "text_language", "num_triplets", "num_discordant", "pnd")
PAIRED_COLUMNS = ("num_discordant_base", "num_fixed", "num_broken", "improvement", "p_value")


def leads(data: Triplets | Xnli, queries: Tensor, passages: Tensor, similarity: config.Similarity = "cosine") -> Tensor:
    """The lead of each triplet (float32), from the embeddings of the set's distinct queries and passages.

    The shape is `[n]`, or `[n, 2, L, L]` for XNLI: premise, comparison, language of the premise, of the hypotheses.
    """
    if isinstance(data, Xnli):
        return _of_xnli(data, queries, passages, similarity)
    return _of_triplets(data, queries, passages, similarity)


def outcomes(leads: Tensor) -> Tensor:
    """Discordance (bool) of each triplet."""
    return ~(leads > 0)  # not `<= 0`: NaN is discordant, too


def _of_triplets(data: Triplets, queries: Tensor, passages: Tensor, similarity: config.Similarity) -> Tensor:
    leads = torch.empty(len(data))
    for start in range(0, len(data), ROWS_PER_CHUNK):
        chunk = slice(start, start + ROWS_PER_CHUNK)
        q = queries[torch.from_numpy(data.query[chunk])]
        positive, negative = (passages[torch.from_numpy(rows[chunk])] for rows in (data.positive, data.negative))
        if similarity == "manhattan":
            leads[chunk] = pairwise(q, positive, similarity) - pairwise(q, negative, similarity)
        else:
            from_middle = q - (positive + negative) / 2 if similarity == "euclidean" else q
            leads[chunk] = (from_middle * (positive - negative)).sum(-1)
    return leads


def _of_xnli(data: Xnli, queries: Tensor, passages: Tensor, similarity: config.Similarity) -> Tensor:
    premise = queries[torch.from_numpy(data.premise)]  # [n, L, d]
    entailment = passages[torch.from_numpy(data.entailment)]
    compared = []
    for comparison in evidence.COMPARISONS:
        other = passages[torch.from_numpy(getattr(data, comparison))]
        if similarity == "manhattan":
            lead = all_pairs(premise, entailment, similarity) - all_pairs(premise, other, similarity)
        else:
            lead = torch.bmm(premise, (entailment - other).mT)
        if similarity == "euclidean":
            lead -= ((entailment + other) / 2 * (entailment - other)).sum(-1)[:, None]
        compared.append(lead)
    return torch.stack(compared, dim=1)


def pnd(outcomes: Tensor) -> float:
    """Share of discordant triplets in percent."""
    return 100.0 * float(outcomes.double().mean())


def improvement(base: int, tuned: int) -> float:
    """Relative reduction of discordant triplets in percent; without any at the base, 0 or minus infinity."""
    return evidence.improvement(base, tuned - base)


def rows(data: Triplets | Xnli, tuned: Tensor, base: Tensor | None = None) -> Iterator[list[str | int | float]]:
    """The set's rows of `discordance.csv`, with the paired columns where the base's outcomes are given.

    A triplet set has one row for everything, with the comparison `negative` and no languages, and if it has languages
    one for each of them, or each pair. XNLI has one row for each comparison and pair of languages.
    """
    if isinstance(data, Xnli):
        yield from _rows(
            data.name, list(itertools.product(evidence.COMPARISONS, data.languages, data.languages)), tuned, base
        )
        return
    yield from _rows(data.name, [("negative", "", "")], tuned, base)
    of_units = evidence.Evidence(tuned, tuned, data.languages, data.language, data.text_language)
    for groups in of_units.by_pair() or of_units.by_language():
        query, _, text = groups.names[0].partition(evidence.PAIR)
        own = None if base is None else base[groups.rows]
        yield from _rows(data.name, [("negative", query, text)], tuned[groups.rows], own)


def _rows(
    name: str, cells: Sequence[tuple[str, ...]], tuned: Tensor, base: Tensor | None
) -> Iterator[list[str | int | float]]:
    """The rows of cells, in the order of the outcomes' dimensions after the first."""
    num_discordant = _per_cell(tuned)
    columns = [[len(tuned)] * len(cells), num_discordant.tolist(), (100.0 * (num_discordant / len(tuned))).tolist()]
    if base is not None:
        columns += _paired_columns(tuned, base)
    for cell, *numbers in zip(cells, *columns, strict=True):
        yield [name, *cell, *numbers]


def _paired_columns(tuned: Tensor, base: Tensor) -> list[list[int | float]]:
    before, after = _per_cell(base), _per_cell(tuned)
    fixed, broken = _per_cell(base & ~tuned), _per_cell(tuned & ~base)
    gains = np.vectorize(improvement, otypes=[float])(before, after)
    return [column.tolist() for column in (before, fixed, broken, gains, significance.mcnemar(broken, fixed))]


def _per_cell(outcomes: Tensor) -> significance.Counts:
    """How many of the outcomes `[n, ...]` are true in each cell, in the order of the table's rows."""
    return outcomes.sum(0).flatten().numpy()
