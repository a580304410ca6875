"""The three kinds of data sets, as training and evaluation use them.

A set holds its distinct query texts and its distinct passage texts once, and says by row number which belong together.
So every text is embedded once, and a trial needs only the passages' embeddings, never their texts. `dropped` counts the
rows of the source that were left out, by reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from adiabatic_ray import config

Rows: TypeAlias = npt.NDArray[np.int64]
Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True)
class Stored:
    """Where the user has stored the passages' embeddings: the row of each in `source`, -1 for none, `[passages]`."""

    source: config.Embeddings
    rows: Rows

    def digest(self) -> str:
        """A digest of the rows."""
        return hashlib.sha256(self.rows.tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Triplets:
    """`n` triplets: rows of `queries` (`query`) and of `passages` (`positive`, `negative`), each of shape `[n]`.

    Pairs have no negatives: then `negative` is empty. `example` `[n]`, in ascending order, numbers the training
    examples that they belong to: a positive of a row with all its negatives. Without it each has one negative.
    `margins` `[n]` (float32), if any, are a teacher's: how much higher it scores the positive. `language` `[n]` holds
    rows of `languages`, those of the queries; a set without languages has none.
    """

    unit: ClassVar = "triplets"
    name: str
    queries: list[str]
    passages: list[str]
    query: Rows
    positive: Rows
    negative: Rows
    example: Rows | None = None
    margins: npt.NDArray[np.float32] | None = None
    languages: list[str] = field(default_factory=list)
    language: Rows | None = None
    stored: Stored | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.query)

    @property
    def pairs(self) -> bool:
        """Whether there are no negatives."""
        return len(self.negative) == 0

    @property
    def first(self) -> Rows:
        """The first triplet of each training example."""
        example = np.arange(len(self)) if self.example is None else self.example
        return np.flatnonzero(np.diff(example, prepend=-1))


@dataclass(frozen=True, kw_only=True)
class Xnli:
    """`n` premises in `L` languages, each with an entailed, a neutral and a contradicting hypothesis.

    `premise` holds rows of `queries`. The three hypotheses hold rows of `passages`. All have the shape `[n, L]`.
    """

    unit: ClassVar = "premises"
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
    """Queries and the corpus to rank for them: `judgements[i]` maps a row of `passages` to its grade for query `i`.

    `identical[i]` is the row of the passage with the id of query `i`, which no ranking may return, or -1. It is -1 too
    where that passage is judged relevant. `language` `[n]` holds rows of `languages`, those of the queries; a set
    without languages has none. `ranges` `[n, 2]` holds the first row of the passages that query `i` is searched for in,
    and the one after the last; without them it is searched for in all.
    """

    unit: ClassVar = "queries"
    name: str
    queries: list[str]
    passages: list[str]
    judgements: list[dict[int, int]]
    identical: Rows
    languages: list[str] = field(default_factory=list)
    language: Rows | None = None
    ranges: Rows | None = None
    stored: Stored | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.queries)


DataSet: TypeAlias = Triplets | Xnli | Ranking


def as_ranking(data: Triplets) -> Ranking:
    """The queries of triplets, to be ranked for over all passages of the set: the positives of a query are relevant.

    A query that comes in several triplets counts once, in the language of the first.
    """
    rows, first = np.unique(data.query, return_index=True)
    judgements: dict[int, dict[int, int]] = {row: {} for row in rows.tolist()}
    for query, positive in zip(data.query.tolist(), data.positive.tolist(), strict=True):
        judgements[query][positive] = 1
    return Ranking(
        name=data.name,
        queries=[data.queries[row] for row in rows],
        passages=data.passages,
        judgements=list(judgements.values()),
        identical=np.full(len(rows), -1),
        languages=data.languages,
        language=None if data.language is None else data.language[first],
        stored=data.stored,
        dropped=data.dropped,
    )


def for_evaluation(data: DataSet) -> DataSet:
    """The set, or pairs as a ranking set: without negatives they have no discordance."""
    return as_ranking(data) if isinstance(data, Triplets) and data.pairs else data


def without_passages(data: DataSet) -> DataSet:
    """The set without its passage texts: a trial needs only their embeddings."""
    if isinstance(data, Xnli):
        return dataclasses.replace(data, passages=[])
    return dataclasses.replace(data, passages=[], stored=None)


def index(items: Iterable[Item], known: dict[Item, int]) -> list[int]:
    """The row of each item among the distinct items in `known`. New items are added to `known`."""
    return [known.setdefault(item, len(known)) for item in items]
