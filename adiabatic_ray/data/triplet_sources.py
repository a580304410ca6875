"""The layouts of triplets, and of pairs without negatives.

- `query`, `positive`, `negative`, or other names given in `columns:`; `anchor` stands for `query`, as in
  sentence-transformers. `negative_1`, `negative_2`, ... or a list in `negative` are several negatives of one row.
- `query`, `pos`, `neg` (FlagEmbedding), and `query`, `positive_passages`, `negative_passages` (Tevatron), in lists.
- `query_id`, `positive_id`, `negative_id`, with the texts in the subsets `queries` and `corpus`
  (`sentence-transformers/msmarco`), or in the files `queries.*.tsv` and `collection.tsv` beside them (MS MARCO).

A row may name the `language` of its query, and the `text_language` of its passages where that is another.

A row with several negatives makes as many triplets. `score` or `label` is a teacher's margin between the positive and
the negative, or a list of margins, or one of the scores of the positive and of each negative.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets, stored, tables

COLUMNS: tuple[config.Column, ...] = ("query", "positive", "negative")
ID_COLUMNS = ("query_id", "positive_id", "negative_id")
FLAG_COLUMNS = ("query", "pos", "neg")  # FlagEmbedding's
SCORE_COLUMNS = ("score", "label")  # a teacher's, in sentence-transformers' sets for distillation
TEVATRON_COLUMNS = ("query", "positive_passages", "negative_passages")


def load(name: str, source: config.Source, rows: datasets.Dataset, seed: int) -> sets.Triplets:
    """Triplets from the rows of a table, or pairs where it has no negatives.

    Raises:
        DataError: a column is missing, or no row can be used.
    """
    if not source.columns and set(ID_COLUMNS) <= set(rows.column_names):
        return _by_id(name, source, rows, seed)
    names = _columns(name, source, rows)
    language, text_language = tables.named(source, [tables.LANGUAGE, tables.TEXT_LANGUAGE])
    if of_rows := tables.languages_in(rows, language):
        chosen = set(tables.languages(name, source, sorted(set(of_rows))))
        rows = rows.select([i for i, one in enumerate(of_rows) if one in chosen])
    rows = rows.select(tables.sample(len(rows), source.limit, seed))
    nothing = [None] * len(rows)
    scores = next((one for one in SCORE_COLUMNS if one in rows.column_names), None)
    spoken, written = (tables.languages_in(rows, one) or nothing for one in (language, text_language))
    scored = rows[scores][:] if scores else nothing
    query, positive, *negatives = (rows[column][:] for column in names)
    cells = zip(query, positive, *negatives, strict=True)
    triplets = (
        _Row(texts, (number, place), asked, answered, margin)
        for number, ((q, p, *n), asked, answered, score) in enumerate(zip(cells, spoken, written, scored, strict=True))
        for place, positive_text in enumerate(_texts(p))
        for texts, margin in _each_negative(q, positive_text, n, score)
    )
    return _with_embeddings(source, _build(name, source.path, triplets))


def _with_embeddings(
    source: config.Source, data: sets.Triplets, texts: Mapping[str, str] | None = None
) -> sets.Triplets:
    """The set with the places of its passages' stored embeddings; `texts` of the passages, by their ids."""
    if source.stored is None:
        return data
    id_of = {text: identity for identity, text in texts.items()} if texts else {}
    ids = [id_of.get(text, "") for text in data.passages] if texts else None
    return dataclasses.replace(data, stored=[stored.find(data.name, source.stored, data.passages, ids)])


class _Row(NamedTuple):
    """A query, a positive and unless it is a pair a negative, as they are in the data, of the example of that key."""

    texts: tuple[Any, ...]
    example: Hashable
    language: str | None = None
    text_language: str | None = None
    margin: float | None = None


def _columns(name: str, source: config.Source, rows: datasets.Dataset) -> list[str]:
    """The columns of the query, the positive and all negatives."""
    present = rows.column_names
    for layout in (FLAG_COLUMNS, TEVATRON_COLUMNS):
        if not source.columns and set(layout) <= set(present):
            return list(layout)
    query, positive, negative = tables.named(source, COLUMNS)
    if "query" not in source.columns and query not in present and "anchor" in present:
        query = "anchor"
    numbered = sorted(
        (one for one in present if re.fullmatch(rf"{re.escape(negative)}_\d+", one)),
        key=lambda one: int(one.rpartition("_")[2]),
    )
    negatives = [negative] if negative in present else numbered
    if "negative" in source.columns and not negatives:
        negatives = [negative]  # which is missing
    wanted = [query, positive, *negatives]
    tables.require_columns(name, source.path, present, wanted)
    return wanted


def _each_negative(
    query: Any, positive: Any, negatives: Sequence[Any], score: Any
) -> Iterator[tuple[tuple[Any, ...], float | None]]:
    """The triplets of one positive with their margins, or its pair. Lists hold several negatives, each for itself."""
    flat = [one for cell in negatives for one in _texts(cell)]
    if not negatives:
        yield (query, positive), None
    elif not flat:
        yield (query, positive, None), None
    for negative, margin in zip(flat, _margins(score, len(flat)), strict=True):
        yield (query, positive, negative), margin


def _margins(score: Any, negatives: int) -> Sequence[float | None]:
    """A teacher's margin for each negative: from the margins, or from the scores of the positive and the negatives."""
    scores = [_number(one) for one in (score if isinstance(score, list) else [score])]
    known = [one for one in scores if one is not None]
    if len(known) != len(scores) or len(scores) not in (negatives, negatives + 1):
        return [None] * negatives
    return known if len(known) == negatives else [known[0] - one for one in known[1:]]


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _texts(cell: Any) -> list[Any]:
    """The texts of a cell: its own, those of a list, and of Tevatron's passages the title before the text."""
    listed = cell if isinstance(cell, list) else [cell]
    return [
        f"{one.get('title') or ''} {one.get('text') or ''}".strip() if isinstance(one, dict) else one for one in listed
    ]


def _by_id(name: str, source: config.Source, rows: datasets.Dataset, seed: int) -> sets.Triplets:
    """Triplets of ids, with the texts elsewhere."""
    rows = rows.select(tables.sample(len(rows), source.limit, seed))
    query_ids, positive_ids, negative_ids = ([tables.identity(i) for i in rows[column][:]] for column in ID_COLUMNS)
    wanted_queries, wanted_passages = set(query_ids), {*positive_ids, *negative_ids}
    if Path(source.path).is_file():
        path = Path(source.path)
        queries = _texts_in(name, tables.queries_beside(name, path), wanted_queries)
        collection = tables.file(path.parent, "collection")
        if collection is None:
            raise errors.DataError(f"{name}: {path.parent} lacks `collection.tsv`, which belongs to {path.name}.")
        corpus = _texts_in(name, collection, wanted_passages)
    else:
        queries = _of_subset(name, source, "queries", ("query_id", "query"), wanted_queries)
        corpus = _of_subset(name, source, "corpus", ("passage_id", "passage"), wanted_passages)
    texts = (
        _Row((queries.get(q), corpus.get(p), corpus.get(n)), number)
        for number, (q, p, n) in enumerate(zip(query_ids, positive_ids, negative_ids, strict=True))
    )
    return _with_embeddings(source, _build(name, source.path, texts), corpus)


def _texts_in(name: str, path: Path, wanted: set[str]) -> dict[str, str]:
    """The texts of the wanted ids from a file of MS MARCO's."""
    table = tables.read(f"{name} ({path.name})", config.Source(path=str(path)))
    return _texts_by_id(name, table, ("_id", "text"), wanted)


def _of_subset(
    name: str, source: config.Source, subset: str, columns: tuple[str, str], wanted: set[str]
) -> dict[str, str]:
    """The texts of the wanted ids, from a subset whose `columns` hold the id and the text."""
    whole = config.Source(path=source.path, name=subset, revision=source.revision, split="train")
    table = tables.read(f"{name} ({subset})", whole)
    tables.require_columns(f"{name} ({subset})", source.path, table.column_names, columns)
    return _texts_by_id(f"{name}: `{subset}` of {source.path}", table, columns, wanted)


def _texts_by_id(label: str, table: datasets.Dataset, columns: tuple[str, str], wanted: set[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for batch in table.iter(batch_size=10_000):
        for identity, text in zip(*(batch[column] for column in columns), strict=True):
            key = tables.identity(identity)
            if key in wanted and texts.setdefault(key, text) != text:
                raise errors.DataError(f"{label} has two different texts under the id {identity}; ids must be unique.")
    return texts


def _build(name: str, path: str, rows: Iterator[_Row]) -> sets.Triplets:
    queries: dict[str, int] = {}
    passages: dict[str, int] = {}
    languages: list[str] = []
    text_languages: list[str] = []
    margins: list[float | None] = []
    kept: list[list[int]] = []
    examples: list[Hashable] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        query, *sides = texts = [tables.text(value) for value in row.texts]
        if query is None or None in sides:
            dropped[f"an empty or missing `{COLUMNS[texts.index(None)]}`"] += 1
        elif len(sides) == 2 and sides[0] == sides[1]:
            dropped["a `positive` that equals its `negative`"] += 1
        else:
            kept.append([*sets.index([query], queries), *sets.index([one for one in sides if one], passages)])
            examples.append(row.example)
            languages += [row.language] if row.language else []
            text_languages += [row.text_language] if row.text_language else []
            margins.append(row.margin)
    tables.require_rows(name, path, len(kept), dropped)
    language, text_language = sets.spoken(languages, text_languages)
    query_rows, positive_rows, *negative_rows = np.array(kept, dtype=np.int64).T.copy()
    return sets.Triplets(
        name=name,
        queries=list(queries),
        passages=list(passages),
        query=query_rows,
        positive=positive_rows,
        negative=negative_rows[0] if negative_rows else np.empty(0, dtype=np.int64),
        example=np.array(sets.index(examples, {})) if len(set(examples)) < len(examples) else None,
        margins=None if None in margins else np.array(margins, dtype=np.float32),
        language=language,
        text_language=text_language,
        dropped=dict(dropped),
    )
