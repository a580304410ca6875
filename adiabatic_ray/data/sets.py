"""The three kinds of data sets, as training and evaluation use them.

A set holds its distinct query texts and its distinct passage texts once, and says by row number which belong together.
So every text is embedded once, and a trial needs only the passages' embeddings, never their texts. `dropped` counts the
rows of the source that were left out, by reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from adiabatic_ray import config

Rows: TypeAlias = npt.NDArray[np.int64]
Item = TypeVar("Item", bound=Hashable)

MIXED = "mixed"  # the text language of a query whose relevant passages are in several


@dataclass(frozen=True)
class Languages:
    """The language of each unit: `rows` `[n]` of `names`, which are distinct."""

    names: list[str]
    rows: Rows

    @classmethod
    def of(cls, each: Sequence[str]) -> Languages | None:
        """From the name for each unit; `None` of none. The names are in alphabetical order."""
        if not each:
            return None
        names, rows = np.unique(each, return_inverse=True)
        return cls(names.tolist(), rows.astype(np.int64))

    def each(self) -> list[str]:
        """The name for each unit."""
        return [self.names[row] for row in self.rows]

    def take(self, units: Rows) -> Languages:
        """Those of some units."""
        return Languages(self.names, self.rows[units])


def language_of(texts: Iterable[str]) -> str:
    """The one language of these texts, or `MIXED`."""
    distinct = set(texts)
    return distinct.pop() if len(distinct) == 1 else MIXED


def spoken(queries: Sequence[str], texts: Sequence[str]) -> tuple[Languages | None, Languages | None]:
    """The languages of the queries of a set's units and of their texts, none of these if all are in their query's."""
    return Languages.of(queries), Languages.of(texts if texts != queries else [])


@dataclass(frozen=True)
class Stored:
    """Where the user has stored embeddings of passages: the row of each in `source`, -1 for none, `[passages]`.

    A set has one for all of its passages, or one for those of each language.
    """

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
    `margins` `[n]` (float32), if any, are a teacher's: how much higher it scores the positive. `language` is that of
    each query, and `text_language` that of its passages where they may be in another.
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
    language: Languages | None = None
    text_language: Languages | None = None
    stored: Sequence[Stored] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.query)

    @property
    def languages(self) -> list[str]:
        """The languages of the queries."""
        return self.language.names if self.language else []

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
    where that passage is judged relevant. `language` is that of each query, and `text_language` that of its relevant
    passages where they may be in another. `ranges` `[n, 2]` holds the first row of the passages that query `i` is
    searched for in, and the one after the last; without them it is searched for in all.
    """

    unit: ClassVar = "queries"
    name: str
    queries: list[str]
    passages: list[str]
    judgements: list[dict[int, int]]
    identical: Rows
    language: Languages | None = None
    text_language: Languages | None = None
    ranges: Rows | None = None
    stored: Sequence[Stored] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def languages(self) -> list[str]:
        """The languages of the queries."""
        return self.language.names if self.language else []


DataSet: TypeAlias = Triplets | Xnli | Ranking


def as_ranking(data: Triplets) -> Ranking:
    """The queries of triplets, to be ranked for over all passages of the set: the positives of a query are relevant.

    A query that comes in several triplets counts once, in the language of the first.
    """
    rows, first, unit = np.unique(data.query, return_index=True, return_inverse=True)
    judgements: list[dict[int, int]] = [{} for _ in rows]
    for query, positive in zip(unit.tolist(), data.positive.tolist(), strict=True):
        judgements[query][positive] = 1
    text_language = None
    if data.text_language:
        texts: list[set[str]] = [set() for _ in rows]
        for query, language in zip(unit.tolist(), data.text_language.each(), strict=True):
            texts[query].add(language)
        text_language = Languages.of([language_of(one) for one in texts])
    return Ranking(
        name=data.name,
        queries=[data.queries[row] for row in rows],
        passages=data.passages,
        judgements=judgements,
        identical=np.full(len(rows), -1),
        language=data.language.take(first) if data.language else None,
        text_language=text_language,
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
    return dataclasses.replace(data, passages=[], stored=())


def index(items: Iterable[Item], known: dict[Item, int]) -> list[int]:
    """The row of each item among the distinct items in `known`. New items are added to `known`."""
    return [known.setdefault(item, len(known)) for item in items]
