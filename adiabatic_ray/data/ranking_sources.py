"""The layouts of ranking sets: a corpus, queries and judgements.

- A BEIR folder: `corpus`, `queries`, and `qrels` or `qrels/<split>`, each in any of the table formats; the judgements
  also as TREC writes them (`.txt`, four columns, no header).
- A folder that holds such a folder for each language: `miracl/ar`, `miracl/bn`, ...
- A data set on the hub with the subsets `corpus`, `queries`, and `qrels` or `default` (MTEB); without these two the
  judgements of `NAME-qrels` (BEIR). In several languages the subsets are `ar-corpus`, `ar-queries`, `ar-qrels`, ...
- MS MARCO's own `qrels.*.tsv`, with `queries.*.tsv` and `collection.tsv` beside it.
- MIRACL's own folders, `miracl-v1.0-ar` with `topics` and `qrels` and `miracl-corpus-v1.0-ar` beside it, ...
- mMARCO's own `collections/german_collection.tsv` and `queries/dev/german_queries.dev.small.tsv`, ..., with MS MARCO's
  `qrels.dev.small.tsv` in the same folder.

Queries may have a column `language`, and so may passages, where they are in another language than the query.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets, stored, tables

LAYOUTS = ("beir", "miracl", "mmarco", "msmarco_qrels")
QREL_COLUMNS = ("query-id", "corpus-id", "score")

Tables: TypeAlias = Mapping[str, datasets.Dataset]  # of `corpus`, `queries` and `qrels`
Readers: TypeAlias = Mapping[str, Callable[[], Tables]]  # by language


def of_files(name: str, source: config.Source, seed: int) -> sets.Ranking | None:
    """A ranking set from local files of its parts; `None` where the source is no such set.

    Raises:
        DataError: a part of the set is missing or damaged.
    """
    path, named = Path(source.path), source.layout
    if path.is_dir() and tables.file(path, "corpus") and named in (None, "beir"):
        return _ranking(name, source, _of_folder(name, path, source.split), seed)
    if path.is_dir():
        for layout, find in (("beir", _beir_folders), ("miracl", _miracl_folders), ("mmarco", _mmarco_files)):
            if named in (None, layout) and (readers := find(name, path, source.split)):
                return _in_languages(name, source, readers, seed)
    if path.is_file() and (
        named == "msmarco_qrels" or (named is None and tables.plain_name(path).startswith("qrels."))
    ):
        return _ranking(name, dataclasses.replace(source, split=None), _beside(name, path, named), seed)
    return None


def of_subsets(name: str, source: config.Source, subsets: set[str], seed: int) -> sets.Ranking | None:
    """A ranking set with a subset for each of its parts, on the hub or in a folder of that layout; `None` without.

    Raises:
        DataError: a part of the set is missing or damaged.
    """
    if spoken := _languages(subsets):
        readers = {one: functools.partial(_of_subsets, name, source, subsets, f"{one}-") for one in spoken}
        return _in_languages(name, source, readers, seed)
    if {"corpus", "queries"} <= subsets:
        return _ranking(name, source, _of_subsets(name, source, subsets, ""), seed)
    return None


def corpus(name: str, source: config.Source) -> list[str]:
    """The distinct passages of a corpus alone: of a BEIR folder, of a subset `corpus`, or in a table.

    Raises:
        DataError: there is none, or it has no column `text`.
    """
    path, own = Path(source.path), source.name
    if path.is_dir():
        path = tables.file(path, "corpus") or tables.file(path, "collection") or path
    elif "corpus" in tables.subsets(source):
        own = "corpus"
    table = tables.read(name, dataclasses.replace(source, path=str(path), name=own))
    tables.require_columns(name, source.path, table.column_names, ["text"])
    texts: dict[str, None] = {}
    for batch in table.iter(batch_size=10_000):
        texts |= dict.fromkeys(_titled(batch))
    texts.pop("", None)
    tables.require_rows(name, source.path, len(texts), {})
    return list(texts)


def _languages(subsets: set[str]) -> list[str]:
    """The languages of a data set that has the subsets of a ranking set for each of them."""
    endings = ("-corpus", "-queries", "-qrels")
    named = {one.removesuffix("-corpus") for one in subsets if one.endswith("-corpus")}
    return sorted(one for one in named if all(f"{one}{ending}" in subsets for ending in endings))


def _of_subsets(name: str, source: config.Source, subsets: set[str], prefix: str) -> Tables:
    """The tables in the subsets whose names begin with `prefix`."""
    own = next((one for one in (f"{prefix}qrels", "default") if one in subsets), None)
    split = (source.split or "test").partition("[")[0]
    qrels = dataclasses.replace(source, name=own, split=split)
    if own is None:
        qrels = dataclasses.replace(source, path=f"{source.path}-qrels", split=split)
    texts = {stem: dataclasses.replace(source, name=f"{prefix}{stem}", split=None) for stem in ("corpus", "queries")}
    return {stem: tables.read(f"{name} ({prefix}{stem})", one) for stem, one in {**texts, "qrels": qrels}.items()}


def _in_languages(name: str, source: config.Source, readers: Readers, seed: int) -> sets.Ranking:
    """One set of a set for each wanted language."""
    if source.stored and config.OF_LANGUAGE not in source.stored.path:
        raise errors.DataError(
            f"{name}: {source.path} has a corpus for each language, and `embeddings` names one file. Put "
            f"`{config.OF_LANGUAGE}` where the files' names have the language, or leave `embeddings` out."
        )
    wanted = tables.languages(name, source, list(readers))
    parts = [
        _ranking(f"{name} ({spoken})", config.in_language(source, spoken), readers[spoken](), seed, spoken)
        for spoken in wanted
    ]
    return _joined(name, parts)


def _beir_folders(name: str, folder: Path, split: str | None) -> Readers:
    """The BEIR folders of a folder that holds one for each language, by their names."""
    names = sorted(one.name for one in folder.iterdir() if tables.file(one, "corpus"))
    return {one: functools.partial(_of_folder, name, folder / one, split) for one in names}


def _miracl_folders(name: str, folder: Path, split: str | None) -> Readers:
    """The languages of MIRACL's own folders."""
    part = (split or "dev").partition("[")[0]
    readers: dict[str, Callable[[], Tables]] = {}
    for one in sorted(folder.glob("miracl-v*-*")):
        parts = {
            "corpus": folder / one.name.replace("miracl-", "miracl-corpus-", 1),
            "queries": one / "topics" / f"topics.{one.name}-{part}.tsv",
            "qrels": one / "qrels" / f"qrels.{one.name}-{part}.tsv",
        }
        readers[one.name.rpartition("-")[2]] = functools.partial(_of_parts, name, parts)
    return readers


def _mmarco_files(name: str, folder: Path, split: str | None) -> Readers:
    """The languages of mMARCO's own files."""
    part = (split or "dev.small").partition("[")[0]
    readers: dict[str, Callable[[], Tables]] = {}
    for one in sorted((folder / "collections").glob("*_collection.tsv*")):
        language = one.name.partition("_")[0]
        queries = f"{language}_queries.{part}.tsv"
        parts = {
            "corpus": one,
            "queries": next((folder / "queries").rglob(f"{queries}*"), folder / "queries" / queries),
            "qrels": folder / f"qrels.{part}.tsv",
        }
        readers[language] = functools.partial(_of_parts, name, parts)
    return readers


def _of_parts(name: str, parts: Mapping[str, Path]) -> Tables:
    """The tables in these files or folders, which may be compressed."""
    read = {}
    for stem, path in parts.items():
        found = path if path.is_dir() else tables.file(path.parent, path.name, endings=("",))
        if found is None:
            raise errors.DataError(f"{name}: {path.parent} lacks `{path.name}`.")
        read[stem] = tables.read(f"{name} ({stem})", config.Source(path=str(found)))
    return read


def _ranking(name: str, source: config.Source, read: Tables, seed: int, spoken: str = "") -> sets.Ranking:
    """A set from the tables of its corpus, its queries (in the language `spoken`, if given) and its judgements."""
    split, _, part = (source.split or "test").partition("[")
    dropped: Counter[str] = Counter()
    corpus = _by_id(name, source.path, "corpus", read["corpus"], dropped)
    queries = _by_id(name, source.path, "queries", read["queries"], dropped)
    row_of = {identity: row for row, identity in enumerate(corpus)}
    tables.require_columns(f"{name} (qrels)", source.path, read["qrels"].column_names, QREL_COLUMNS)
    judgements = _judgements(read["qrels"], queries, row_of, dropped)
    # As in trec_eval, a query without a relevant passage measures nothing.
    answerable = [i for i in queries if any(grade > 0 for grade in judgements.get(i, {}).values())]
    dropped["a query without a relevant passage"] += len(queries) - len(answerable)
    tables.require_rows(name, source.path, len(answerable), dropped)
    language = dict.fromkeys(queries, spoken) if spoken else _languages_by_id(source, read["queries"])
    if language and not spoken:
        wanted = set(tables.languages(name, source, sorted(set(language.values()))))
        answerable = [i for i in answerable if language[i] in wanted]
    if part:
        answerable = _part(name, source, split, answerable)
    chosen = [answerable[i] for i in tables.sample(len(answerable), source.limit, seed)]
    judged = [judgements[i] for i in chosen]
    # As in BEIR, whose queries may be passages of the corpus themselves. In sets that number both alike, the passage
    # with the query's own id may be its answer.
    own = [row_of.get(i, -1) for i in chosen]
    identical = [-1 if judgements[i].get(row, 0) > 0 else row for i, row in zip(chosen, own, strict=True)]
    written = _languages_by_id(source, read["corpus"]) if language else {}
    asked, answered = sets.spoken(
        [language[i] for i in chosen] if language else [], _text_languages(judged, list(corpus), written)
    )
    dropped["the query's own id (passages, each left out of its query's ranking)"] = sum(row >= 0 for row in identical)
    return sets.Ranking(
        name=name,
        queries=[queries[i] for i in chosen],
        passages=list(corpus.values()),
        judgements=judged,
        identical=np.array(identical, dtype=np.int64),
        language=asked,
        text_language=answered,
        stored=[_stored(name, source.stored, read["corpus"], corpus)] if source.stored else [],
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _stored(name: str, source: config.Embeddings, table: datasets.Dataset, corpus: Mapping[str, str]) -> sets.Stored:
    """Where the embeddings of a corpus' passages are, of which a few rows of its table may be left out."""
    place: dict[str, int] = {}
    for number, identity in enumerate(table[_id_column(table)][:]):
        place.setdefault(tables.identity(identity), number)
    order = [place[identity] for identity in corpus]
    return stored.find(name, source, list(corpus.values()), list(corpus), order, len(table))


def _part(name: str, source: config.Source, split: str, queries: list[str]) -> list[str]:
    """The queries that a split in the hub's notation names: the first half by `test[:50%]`."""
    try:
        (part,) = datasets.ReadInstruction.from_spec(str(source.split)).to_absolute({split: len(queries)})
    except (ValueError, AssertionError) as error:
        raise errors.DataError(f"{name}: `split` {source.split!r} is not in the hub's notation: {error}") from error
    return queries[part.from_ : part.to]


def _languages_by_id(source: config.Source, table: datasets.Dataset) -> dict[str, str]:
    """The language of each id of a table of queries or passages, where it has a column for it."""
    (column,) = tables.named(source, [tables.LANGUAGE])
    languages = tables.languages_in(table, column)
    identities = table[_id_column(table)][:] if languages else []
    return {tables.identity(i): one for i, one in zip(identities, languages, strict=True)}


def _text_languages(
    judgements: Sequence[Mapping[int, int]], ids: Sequence[str], written: Mapping[str, str]
) -> list[str]:
    """The language of each query's relevant passages, from that of each passage's id; nothing where none is known."""
    relevant = ([ids[row] for row, grade in judged.items() if grade > 0] for judged in judgements)
    return [sets.language_of(written[one] for one in passages) for passages in relevant] if written else []


def _id_column(table: datasets.Dataset) -> str:
    return next((one for one in ("_id", "id", "docid") if one in table.column_names), "_id")


def _joined(name: str, parts: Sequence[sets.Ranking]) -> sets.Ranking:
    """One set of a set for each language: a query is searched for in the passages of its own language."""
    dropped: Counter[str] = Counter()
    judgements: list[dict[int, int]] = []
    identical: list[int] = []
    ranges: list[list[int]] = []
    first = 0
    for part in parts:
        dropped.update(part.dropped)
        last = first + len(part.passages)
        judgements += [{first + row: grade for row, grade in judged.items()} for judged in part.judgements]
        identical += [first + row if row >= 0 else -1 for row in part.identical.tolist()]
        ranges += [[first, last]] * len(part)
        first = last
    language, text_language = sets.spoken(
        [one for part in parts if part.language for one in part.language.each()],
        [one for part in parts if part.language for one in (part.text_language or part.language).each()],
    )
    return sets.Ranking(
        name=name,
        queries=[query for part in parts for query in part.queries],
        passages=[passage for part in parts for passage in part.passages],
        judgements=judgements,
        identical=np.array(identical, dtype=np.int64),
        ranges=np.array(ranges, dtype=np.int64),
        language=language,
        text_language=text_language,
        stored=[one for part in parts for one in part.stored],
        dropped=dict(dropped),
    )


def _of_folder(name: str, folder: Path, split: str | None) -> Tables:
    """The tables of a BEIR folder."""
    read, nested = {}, f"qrels/{(split or 'test').partition('[')[0]}"
    for stem in ("corpus", "queries", "qrels"):
        path = tables.file(folder, stem)
        if stem == "qrels":
            endings = (*tables.FORMATS, *tables.TREC_ENDINGS)
            path = tables.file(folder, "qrels", endings) or tables.file(folder, nested, endings)
        if path is None:
            raise errors.DataError(
                f"{name}: {folder} looks like a BEIR folder but lacks `{stem}`"
                + (f" (or `{nested}`)" if stem == "qrels" else "")
                + f" as {', '.join(tables.FORMATS)}."
            )
        reader = tables.read_trec if tables.ending(path) in tables.TREC_ENDINGS else tables.read
        read[stem] = reader(f"{name} ({stem})", config.Source(path=str(path)))
    return read


def _beside(name: str, qrels: Path, layout: config.Layout | None) -> Tables:
    """The tables of MS MARCO's own files: the judgements, with the collection and the queries beside them."""
    corpus = tables.file(qrels.parent, "collection")
    if corpus is None:
        raise errors.DataError(f"{name}: {qrels.parent} lacks `collection.tsv`, which belongs to {qrels.name}.")
    read = _of_parts(name, {"corpus": corpus, "queries": tables.queries_beside(name, qrels)})
    return {**read, "qrels": tables.read(f"{name} (qrels)", config.Source(path=str(qrels), layout=layout))}


def _judgements(
    table: datasets.Dataset, queries: Mapping[str, str], row_of: Mapping[str, int], dropped: Counter[str]
) -> dict[str, dict[int, int]]:
    """The grades of the judged passages' rows, by query id."""
    grades: dict[str, dict[int, int]] = {}
    for batch in table.iter(batch_size=10_000):
        for query_id, corpus_id, score in zip(*(batch[column] for column in QREL_COLUMNS), strict=True):
            row, query = row_of.get(tables.identity(corpus_id)), tables.identity(query_id)
            if query not in queries:
                dropped["a judgement of an unknown query"] += 1
            elif row is None:
                dropped["a judgement of an unknown passage"] += 1
            elif row in grades.setdefault(query, {}):
                dropped["a second judgement of the same pair"] += 1
            else:
                grades[query][row] = int(float(score))
    return grades


def _by_id(name: str, path: str, stem: str, table: datasets.Dataset, dropped: Counter[str]) -> dict[str, str]:
    """The texts by id; the title comes before the text, as in BEIR."""
    identities = _id_column(table)
    tables.require_columns(f"{name} ({stem})", path, table.column_names, (identities, "text"))
    texts: dict[str, str] = {}
    for batch in table.iter(batch_size=10_000):
        for identity, text in zip(batch[identities], _titled(batch), strict=True):
            key = tables.identity(identity)
            if not text:
                dropped[f"an empty text in `{stem}`"] += 1
            elif texts.setdefault(key, text) != text:
                raise errors.DataError(
                    f"{name}: {path}/{stem} has two different texts under the id {key!r}; ids must be unique."
                )
    repeated = len(table) - len(texts) - dropped[f"an empty text in `{stem}`"]
    if repeated:
        dropped[f"an id and text given twice in `{stem}`"] += repeated
    return texts


def _titled(batch: Mapping[str, Sequence[Any]]) -> list[str]:
    """The texts of a batch, each with its title before it."""
    titles = batch.get("title") or [""] * len(batch["text"])
    pairs = zip(titles, batch["text"], strict=True)
    return [f"{tables.text(title) or ''} {tables.text(body) or ''}".strip() for title, body in pairs]
