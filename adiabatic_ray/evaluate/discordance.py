"""Positive-negative discordance: which triplets have a negative that scores at least as high as the positive.

All functions take unit-length embeddings, so that a cosine is a dot product. They compare `q . (p - n)` with zero
rather than two scores, so that a negative equal to the positive is a tie (and discordant) to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from adiabatic_ray.data.sets import Triplets, Xnli
from adiabatic_ray.evaluate import significance

COMPARISONS = ("neutral", "contradiction")
ROWS_PER_CHUNK = 65_536  # bounds the memory of gathered embeddings


def triplets(data: Triplets, queries: Tensor, passages: Tensor) -> Tensor:
    """Discordance `[n]` (bool) of each triplet, from the embeddings of the set's distinct queries and passages."""
    found = torch.empty(len(data), dtype=torch.bool)
    for start in range(0, len(data), ROWS_PER_CHUNK):
        part = slice(start, start + ROWS_PER_CHUNK)
        q = queries[torch.from_numpy(data.query[part])]
        difference = passages[torch.from_numpy(data.positive[part])] - passages[torch.from_numpy(data.negative[part])]
        found[part] = ~((q * difference).sum(-1) > 0)  # so that NaN is discordant, too
    return found


def xnli(data: Xnli, queries: Tensor, passages: Tensor) -> Tensor:
    """Discordance `[n, 2, L, L]` (bool): premise, comparison, language of the premise, language of the hypotheses."""
    premise = queries[torch.from_numpy(data.premise)]  # [n, L, d]
    entailment = passages[torch.from_numpy(data.entailment)]
    outcomes = []
    for comparison in COMPARISONS:
        difference = entailment - passages[torch.from_numpy(getattr(data, comparison))]
        outcomes.append(~(torch.bmm(premise, difference.transpose(1, 2)) > 0))
    return torch.stack(outcomes, dim=1)


def pnd(outcomes: Tensor) -> float:
    """Share of discordant triplets in percent."""
    return 100.0 * float(outcomes.double().mean())


def improvement(base: int, tuned: int) -> float:
    """Relative reduction of discordant triplets in percent; 0 where there was none to reduce and none was added."""
    if base == 0:
        return 0.0 if tuned == 0 else float("-inf")
    return 100.0 * (base - tuned) / base


# ---- as a table ----------------------------------------------------------------------------------------------------

COLUMNS = ("dataset", "comparison", "query_language", "text_language", "num_triplets", "num_discordant", "pnd")
PAIRED_COLUMNS = ("num_discordant_base", "num_fixed", "num_broken", "improvement", "p_value")


def rows(data: Triplets | Xnli, tuned: Tensor, base: Tensor | None = None) -> Iterator[list[str | int | float]]:
    """The set's rows of `discordance.csv`, with the paired columns where the base's outcomes are given.

    A triplet set is one row, with the comparison `negative` and no languages; XNLI has one for each comparison and
    pair of languages.
    """
    if isinstance(data, Triplets):
        yield _row([data.name, "negative", "", ""], tuned, base)
        return
    for c, comparison in enumerate(COMPARISONS):
        for x, query_language in enumerate(data.languages):
            for y, text_language in enumerate(data.languages):
                yield _row(
                    [data.name, comparison, query_language, text_language],
                    tuned[:, c, x, y],
                    None if base is None else base[:, c, x, y],
                )


def _row(names: Sequence[str], tuned: Tensor, base: Tensor | None) -> list[str | int | float]:
    row: list[str | int | float] = [*names, len(tuned), int(tuned.sum()), pnd(tuned)]
    if base is not None:
        fixed, broken = int((base & ~tuned).sum()), int((~base & tuned).sum())
        gain = improvement(int(base.sum()), int(tuned.sum()))
        row += [int(base.sum()), fixed, broken, gain, significance.mcnemar(broken, fixed)]
    return row
