"""The three kinds of data sets, in the form in which training and evaluation use them.

Each holds its distinct query texts and its distinct passage texts once, and says by row number which belong together.
So every text is embedded once, and a trial needs the passages' embeddings only, never their texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Triplets:
    """`n` triplets: rows of `queries` (`query`) and of `passages` (`positive`, `negative`), each of shape `[n]`."""

    name: str
    queries: list[str]
    passages: list[str]
    query: Rows
    positive: Rows
    negative: Rows
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.query)


@dataclass(frozen=True, kw_only=True)
class Xnli:
    """`n` premises in `L` languages with an entailed, a neutral and a contradicting hypothesis each.

    `premise` holds rows of `queries`, the three hypotheses hold rows of `passages`; all have the shape `[n, L]`.
    """

    name: str
    languages: list[str]
    queries: list[str]
    passages: list[str]
    premise: Rows
    entailment: Rows
    neutral: Rows
    contradiction: Rows
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.premise)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Queries to be answered from a corpus: `judgements[i]` grades the rows of `passages` judged for query `i`.

    `identical[i]` is the row of the passage with the query's own id, which is not to be returned, or -1.
    """

    name: str
    queries: list[str]
    passages: list[str]
    judgements: list[dict[int, int]]
    identical: Rows
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.queries)


DataSet: TypeAlias = Triplets | Xnli | Ranking


def without_passages(data: DataSet) -> DataSet:
    """The set without its passage texts: what a trial needs beside their embeddings."""
    return dataclasses.replace(data, passages=[])


def index(texts: Iterable[str], known: dict[str, int]) -> list[int]:
    """The row of each text among the distinct ones in `known`, which grows by those that are new."""
    return [known.setdefault(text, len(known)) for text in texts]
