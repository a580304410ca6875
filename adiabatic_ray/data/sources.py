"""Reading data sets: hub ids and local files in the layouts of MS MARCO triplets, XNLI and BEIR.

Triplets and the queries of a BEIR folder may have a column `language`. A folder may also hold one BEIR folder for each
language, as MIRACL does: `miracl/ar`, `miracl/bn`, ...
"""

from __future__ import annotations

import csv
import dataclasses
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import numpy.typing as npt
import pandas as pd

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets

TEXT_COLUMNS: tuple[config.Column, ...] = ("query", "positive", "negative")
ID_COLUMNS = ("query_id", "positive_id", "negative_id")
XNLI_COLUMNS = ("premise", "hypothesis", "label")
FLAT_XNLI_COLUMNS: tuple[config.Column, ...] = ("language", "premise", "hypothesis", "label", "id")
LANGUAGE: config.Column = "language"
QREL_COLUMNS = ("query-id", "corpus-id", "score")
LABELS = ("entailment", "neutral", "contradiction")
_LABEL_NUMBERS = {str(key): i for i, label in enumerate(LABELS) for key in (i, label)}

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}


def load(name: str, source: config.Source, seed: int) -> sets.DataSet:
    """Read a data set; its files and columns say which kind it is.

    A `limit` draws that many triplets, premises or queries at random with `seed`.

    Raises:
        DataError: the source cannot be read, or lacks a column, a language or a usable row.
    """
    if Path(source.path).is_dir() and _table(Path(source.path), "corpus"):
        return _ranking(name, source, seed)
    if folders := _by_language(name, source):
        return _joined(name, {language: _ranking(name, one, seed) for language, one in folders.items()})
    rows = _read(name, source)
    columns = rows.column_names
    if set(_named(source, FLAT_XNLI_COLUMNS)) <= set(columns):
        return _xnli(name, source, _flat_pairs(name, source, rows), seed)
    if not source.columns and set(XNLI_COLUMNS) <= set(columns):
        return _xnli(name, source, _nested_pairs(name, source, rows), seed)
    if not source.columns and set(ID_COLUMNS) <= set(columns):
        return _triplets_by_id(name, source, rows, seed)
    return _triplets(name, source, rows, seed)


def _by_language(name: str, source: config.Source) -> dict[str, config.Source]:
    """The BEIR folders of a folder that holds one for each language, by their names; none of any other source."""
    folder = Path(source.path)
    names = sorted(one.name for one in folder.iterdir() if _table(one, "corpus")) if folder.is_dir() else []
    wanted = _languages(name, source, names) if names else []
    return {one: dataclasses.replace(source, path=str(folder / one), languages=None) for one in wanted}


def is_hub_id(path: str) -> bool:
    """Whether a path names a data set on the hub: it has the form `owner/name`, and no such file exists."""
    looks_local = path.startswith((".", "/")) or Path(path).suffix in _FORMATS
    return path.count("/") == 1 and not looks_local and not Path(path).exists()


def _read(name: str, source: config.Source) -> datasets.Dataset:
    path = Path(source.path)
    if path.is_file():
        if not path.stat().st_size:
            raise errors.DataError(f"{name}: {path} is empty.")
        kind = _FORMATS.get(path.suffix)
        if kind is None:
            raise errors.DataError(
                f"{name}: {path} has an unknown type; expected a file ending in {', '.join(_FORMATS)}."
            )
        options = _csv_options(name, path) if kind == "csv" else {}
        return _load_dataset(name, source, kind, data_files=str(path), **options)
    if not path.is_dir() and not is_hub_id(source.path):
        raise errors.DataError(
            f"{name}: {source.path} does not exist, and is no hub id, which would have the form `owner/name`."
        )
    return _load_dataset(name, source, source.path, name=source.name, revision=source.revision)


def _csv_options(name: str, path: Path) -> dict[str, Any]:
    """Options that read every cell of a comma- or tab-separated file as text: `NA` and `007` stay as they are."""
    tabs = path.suffix == ".tsv"  # tab-separated collections hold bare quotation marks; comma-separated ones quote
    separator: str = "\t" if tabs else ","
    quoting: Literal[0, 3] = 3 if tabs else 0  # csv.QUOTE_NONE, csv.QUOTE_MINIMAL
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file, delimiter=separator, quoting=quoting), [])
    except UnicodeDecodeError as error:
        raise errors.DataError(f"{name}: cannot read {path}: {_root_cause(error)}") from error
    features = datasets.Features({column: datasets.Value("string") for column in header})
    return {
        "sep": separator,
        "quoting": quoting,
        "features": features,
        "keep_default_na": False,
        "encoding": "utf-8-sig",
    }


def _load_dataset(name: str, source: config.Source, path: str, /, **options: Any) -> datasets.Dataset:
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(path, split=source.split, **options)
    except Exception as error:
        # The library wraps the cause (a bad byte, a malformed line) in an error that says only that it failed.
        reason = "it has no rows." if "corresponds to no data" in str(error) else _root_cause(error)
        raise errors.DataError(f"{name}: cannot read {source.path}: {reason}") from error
    finally:
        if not shown:
            datasets.enable_progress_bars()
    if isinstance(loaded, datasets.DatasetDict):
        if len(loaded) > 1:
            raise errors.DataError(f"{name}: {source.path} has the splits {sorted(loaded)}; choose one with `split`.")
        loaded = next(iter(loaded.values()))
    return loaded


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start}: {error.reason}); convert it to UTF-8."
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _table(folder: Path, stem: str) -> Path | None:
    """The file `folder/stem` in the first format that exists."""
    return next((p for suffix in _FORMATS if (p := folder / f"{stem}{suffix}").is_file()), None)


def _require_columns(name: str, path: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in present]
    if missing:
        raise errors.DataError(
            f"{name}: {path} lacks the column{'s' if len(missing) > 1 else ''} {_quoted(missing)}; it has "
            f"{_quoted(present)}. Name yours with `columns: {{query: ..., positive: ..., negative: ...}}`."
        )


def _named(source: config.Source, columns: Sequence[config.Column]) -> list[str]:
    """What the source calls these columns."""
    return [source.columns.get(column, column) for column in columns]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def _text(value: Any) -> str | None:
    """A cell as a text; `None` if it has none. A number is a text, `7`, and so is the only element of a list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = str(int(value) if value == int(value) else value)
    return value if isinstance(value, str) and value.strip() else None


def _identity(value: Any) -> str:
    """An id as a text: 7 and 7.0 are the same one."""
    return _text(value) or str(value)


def _sample(count: int, limit: int | None, seed: int) -> list[int]:
    """The row numbers of a random sample, in the order of the file."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), limit))  # noqa: S311 - not cryptography


def _require_rows(name: str, path: str, kept: int, dropped: Mapping[str, int]) -> None:
    if kept == 0:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items() if count)
        raise errors.DataError(f"{name}: {path} has no usable row ({reasons or 'it is empty'}).")


def _triplets(name: str, source: config.Source, rows: datasets.Dataset, seed: int) -> sets.Triplets:
    names = _named(source, TEXT_COLUMNS)
    _require_columns(name, source.path, rows.column_names, names)
    (language,) = _named(source, [LANGUAGE])
    if language in rows.column_names:
        names = [*names, language]
        present = sorted({_identity(one) for one in rows[language][:]})
        chosen = set(_languages(name, source, present))
        rows = rows.select([i for i, one in enumerate(rows[language][:]) if _identity(one) in chosen])
    rows = rows.select_columns(names).select(_sample(len(rows), source.limit, seed))
    texts = [rows[column][:] for column in names]
    return _build_triplets(name, source.path, zip(*texts, strict=True))


def _triplets_by_id(name: str, source: config.Source, rows: datasets.Dataset, seed: int) -> sets.Triplets:
    """The layout of `sentence-transformers/msmarco`: triplets of ids beside the subsets `queries` and `corpus`."""
    rows = rows.select(_sample(len(rows), source.limit, seed))
    query_ids, positive_ids, negative_ids = ([_identity(i) for i in rows[column][:]] for column in ID_COLUMNS)
    queries = _subset_texts(name, source, "queries", ("query_id", "query"), set(query_ids))
    corpus = _subset_texts(name, source, "corpus", ("passage_id", "passage"), {*positive_ids, *negative_ids})
    texts = (
        (queries.get(q), corpus.get(p), corpus.get(n))
        for q, p, n in zip(query_ids, positive_ids, negative_ids, strict=True)
    )
    return _build_triplets(name, source.path, texts)


def _subset_texts(
    name: str, source: config.Source, subset: str, columns: tuple[str, str], wanted: set[str]
) -> dict[str, str]:
    """The texts of the wanted ids, from a subset whose `columns` hold the id and the text."""
    whole = config.Source(path=source.path, name=subset, revision=source.revision, split="train")
    table = _read(f"{name} ({subset})", whole)
    _require_columns(f"{name} ({subset})", source.path, table.column_names, columns)
    texts: dict[str, str] = {}
    for batch in table.iter(batch_size=10_000):
        for identity, text in zip(*(batch[column] for column in columns), strict=True):
            key = _identity(identity)
            if key in wanted and texts.setdefault(key, text) != text:
                raise errors.DataError(
                    f"{name}: `{subset}` of {source.path} has two different texts under the id {identity}; "
                    "ids must be unique."
                )
    return texts


def _build_triplets(name: str, path: str, rows: Iterator[tuple[Any, ...]]) -> sets.Triplets:
    queries: dict[str, int] = {}
    passages: dict[str, int] = {}
    languages: list[str] = []
    kept: list[list[int]] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        query, positive, negative = texts = [_text(value) for value in row[:3]]
        if query is None or positive is None or negative is None:
            dropped[f"an empty or missing `{TEXT_COLUMNS[texts.index(None)]}`"] += 1
        elif positive == negative:
            dropped["a `positive` that equals its `negative`"] += 1
        else:
            kept.append([*sets.index([query], queries), *sets.index([positive, negative], passages)])
            languages += map(_identity, row[3:])
    _require_rows(name, path, len(kept), dropped)
    query_rows, positive_rows, negative_rows = np.array(kept, dtype=np.int64).T.copy()
    return sets.Triplets(
        name=name,
        queries=list(queries),
        passages=list(passages),
        query=query_rows,
        positive=positive_rows,
        negative=negative_rows,
        **_numbered(languages),
        dropped=dict(dropped),
    )


def _numbered(languages: Sequence[str]) -> dict[str, Any]:
    """The distinct languages in alphabetical order, and the row of each among them; nothing without languages."""
    if not languages:
        return {}
    distinct, rows = np.unique(languages, return_inverse=True)
    return {"languages": distinct.tolist(), "language": rows.astype(np.int64)}


def _flat_pairs(name: str, source: config.Source, rows: datasets.Dataset) -> pd.DataFrame:
    """A table of pairs (see `_xnli`) from the layout of XNLI's own TSV files: one row for each pair and language.

    `id` is the same for the three pairs of a premise in all languages (`promptID` in XNLI).
    """
    columns = zip(FLAT_XNLI_COLUMNS, _named(source, FLAT_XNLI_COLUMNS), strict=True)
    table = pd.DataFrame({ours: rows[theirs][:] for ours, theirs in columns}, dtype=object)
    table["number"] = [_LABEL_NUMBERS.get(str(label), -1) for label in table["label"]]
    repeated = table.duplicated(["id", "number", "language"])
    clashes = table[repeated & (table["number"] >= 0)]  # a pair without a label is dropped later
    if len(clashes):
        label, language, identity = clashes.iloc[0][["label", "language", "id"]]
        raise errors.DataError(
            f"{name}: {source.path} has two pairs of the label {label!r} in {language} under the id {identity}; "
            "`columns: {id: ...}` must name a column that tells premises apart."
        )
    table = table[~repeated]
    pairs = table.groupby(["id", "number"], sort=False, dropna=False)
    wide = table.assign(pair=pairs.ngroup()).pivot(index="pair", columns="language", values=["premise", "hypothesis"])
    return wide.set_axis(pairs["number"].first(), axis=0)


def _nested_pairs(name: str, source: config.Source, rows: datasets.Dataset) -> pd.DataFrame:
    """A table of pairs (see `_xnli`) from the layout of `facebook/xnli`, `all_languages`: one row for each pair."""
    if isinstance(rows.features["premise"], datasets.Value):
        raise errors.DataError(
            f"{name}: {source.path} holds one language; expected premises in several, as in the subset "
            "`all_languages` of `facebook/xnli` (`name: all_languages`)."
        )
    texts = {
        "premise": [premise or {} for premise in rows["premise"][:]],
        "hypothesis": [
            dict(zip(h["language"], h["translation"], strict=True)) if h else {} for h in rows["hypothesis"][:]
        ],
    }
    wide = pd.concat({column: pd.DataFrame(cells, dtype=object) for column, cells in texts.items()}, axis=1)
    return wide.set_axis(rows["label"][:], axis=0)


def _xnli(name: str, source: config.Source, pairs: pd.DataFrame, seed: int) -> sets.Xnli:
    """A set from a table of pairs: one row for each pair of a premise and a hypothesis.

    The index is the pair's label, a number. The columns are (`premise` or `hypothesis`, language).
    """
    languages = _languages(name, source, sorted(pairs["premise"].columns))
    pairs = pairs.reindex(columns=pd.MultiIndex.from_product([["premise", "hypothesis"], languages])).map(_text)
    complete, dropped = _complete(pairs)
    _require_rows(name, source.path, len(complete), dropped)
    texts = complete.to_numpy(object).reshape(-1, 3, 2, len(languages))  # premise, label, kind of text, language
    texts = texts[_sample(len(texts), source.limit, seed)]
    premise, queries = _distinct(texts[:, 0, 0])
    hypotheses, passages = _distinct(texts[:, :, 1])
    return sets.Xnli(
        name=name,
        languages=languages,
        queries=queries,
        passages=passages,
        premise=premise,
        **{label: np.ascontiguousarray(hypotheses[:, i]) for i, label in enumerate(LABELS)},
        dropped=dropped,
    )


def _languages(name: str, source: config.Source, present: list[str]) -> list[str]:
    languages = source.languages or present
    unknown = [language for language in languages if language not in present]
    if unknown:
        raise errors.DataError(f"{name}: {source.path} lacks the languages {unknown}; it has {present}.")
    return list(languages)


def _complete(pairs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The three pairs of each premise that has all its texts, ordered by label, and why the others were dropped."""
    labelled = pairs[pairs.index.isin([0, 1, 2])]
    premises = sets.index(map(tuple, labelled["premise"].to_numpy(object)), {})
    labelled = labelled.set_axis(pd.MultiIndex.from_arrays([premises, labelled.index]), axis=0)
    unique = labelled[~labelled.index.duplicated()]
    whole = unique[unique.groupby(level=0).transform("size") == 3]
    complete = whole[whole.notna().all(axis=1).groupby(level=0).transform("all")]
    dropped = {
        "a label other than 0, 1 and 2": len(pairs) - len(labelled),
        "a second hypothesis of the same label": len(labelled) - len(unique),
        "a premise that lacks one of its three hypotheses": len(unique) - len(whole),
        "a text missing in one of the languages": len(whole) - len(complete),
    }
    return complete.sort_index(), {reason: count for reason, count in dropped.items() if count}


def _distinct(texts: npt.NDArray[np.object_]) -> tuple[sets.Rows, list[str]]:
    """The row of each text among the distinct texts, and the distinct texts in order of appearance."""
    rows, distinct = pd.factorize(texts.ravel())
    return rows.reshape(texts.shape), list(distinct)


def _ranking(name: str, source: config.Source, seed: int) -> sets.Ranking:
    """A BEIR folder: `corpus`, `queries`, and `qrels` or `qrels/<split>`, each in any of the table formats."""
    folder = Path(source.path)
    split, _, part = (source.split or "test").partition("[")
    tables = _beir_tables(name, folder, split)
    dropped: Counter[str] = Counter()
    corpus = _by_id(name, folder, "corpus", tables["corpus"], dropped)
    queries = _by_id(name, folder, "queries", tables["queries"], dropped)
    row_of = {identity: row for row, identity in enumerate(corpus)}
    _require_columns(f"{name} (qrels)", source.path, tables["qrels"].column_names, QREL_COLUMNS)
    judgements = _judgements(tables["qrels"], queries, row_of, dropped)
    # As in trec_eval, a query without a relevant passage measures nothing.
    answerable = [i for i in queries if any(grade > 0 for grade in judgements.get(i, {}).values())]
    dropped["a query without a relevant passage"] += len(queries) - len(answerable)
    _require_rows(name, source.path, len(answerable), dropped)
    language = _query_languages(source, tables["queries"])
    if language:
        wanted = set(_languages(name, source, sorted(set(language.values()))))
        answerable = [i for i in answerable if language[i] in wanted]
    if part:
        answerable = _part(name, source, split, answerable)
    chosen = [answerable[i] for i in _sample(len(answerable), source.limit, seed)]
    # As in BEIR, whose queries may be passages of the corpus themselves. In sets that number both alike, the passage
    # with the query's own id may be its answer.
    own = [row_of.get(i, -1) for i in chosen]
    identical = [-1 if judgements[i].get(row, 0) > 0 else row for i, row in zip(chosen, own, strict=True)]
    dropped["the query's own id (passages, each left out of its query's ranking)"] = sum(row >= 0 for row in identical)
    return sets.Ranking(
        name=name,
        queries=[queries[i] for i in chosen],
        passages=list(corpus.values()),
        judgements=[judgements[i] for i in chosen],
        identical=np.array(identical, dtype=np.int64),
        **_numbered([language[i] for i in chosen] if language else []),
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _part(name: str, source: config.Source, split: str, queries: list[str]) -> list[str]:
    """The queries that a split in the hub's notation names: the first half by `test[:50%]`."""
    try:
        (part,) = datasets.ReadInstruction.from_spec(str(source.split)).to_absolute({split: len(queries)})
    except (ValueError, AssertionError) as error:
        raise errors.DataError(f"{name}: `split` {source.split!r} is not in the hub's notation: {error}") from error
    return queries[part.from_ : part.to]


def _query_languages(source: config.Source, queries: datasets.Dataset) -> dict[str, str]:
    """The language of each query id, where the queries have a column for it."""
    (column,) = _named(source, [LANGUAGE])
    if column not in queries.column_names:
        return {}
    return {_identity(i): _identity(one) for i, one in zip(queries["_id"][:], queries[column][:], strict=True)}


def _joined(name: str, parts: Mapping[str, sets.Ranking]) -> sets.Ranking:
    """One set of a set for each language: a query is searched for in the passages of its own language."""
    dropped: Counter[str] = Counter()
    judgements: list[dict[int, int]] = []
    identical: list[int] = []
    ranges: list[list[int]] = []
    first = 0
    for part in parts.values():
        dropped.update(part.dropped)
        last = first + len(part.passages)
        judgements += [{first + row: grade for row, grade in judged.items()} for judged in part.judgements]
        identical += [first + row if row >= 0 else -1 for row in part.identical.tolist()]
        ranges += [[first, last]] * len(part)
        first = last
    return sets.Ranking(
        name=name,
        queries=[query for part in parts.values() for query in part.queries],
        passages=[passage for part in parts.values() for passage in part.passages],
        judgements=judgements,
        identical=np.array(identical, dtype=np.int64),
        ranges=np.array(ranges, dtype=np.int64),
        **_numbered([language for language, part in parts.items() for _ in range(len(part))]),
        dropped=dict(dropped),
    )


def _beir_tables(name: str, folder: Path, split: str) -> dict[str, datasets.Dataset]:
    tables = {}
    for stem, nested in (("corpus", None), ("queries", None), ("qrels", f"qrels/{split}")):
        path = _table(folder, stem) or (_table(folder, nested) if nested else None)
        if path is None:
            raise errors.DataError(
                f"{name}: {folder} looks like a BEIR folder but lacks `{stem}`"
                + (f" (or `{nested}`)" if nested else "")
                + f" as {', '.join(_FORMATS)}."
            )
        tables[stem] = _read(f"{name} ({stem})", config.Source(path=str(path)))
    return tables


def _judgements(
    table: datasets.Dataset, queries: Mapping[str, str], row_of: Mapping[str, int], dropped: Counter[str]
) -> dict[str, dict[int, int]]:
    """The grades of the judged passages' rows, by query id."""
    grades: dict[str, dict[int, int]] = {}
    for batch in table.iter(batch_size=10_000):
        for query_id, corpus_id, score in zip(*(batch[column] for column in QREL_COLUMNS), strict=True):
            row, query = row_of.get(_identity(corpus_id)), _identity(query_id)
            if query not in queries:
                dropped["a judgement of an unknown query"] += 1
            elif row is None:
                dropped["a judgement of an unknown passage"] += 1
            elif row in grades.setdefault(query, {}):
                dropped["a second judgement of the same pair"] += 1
            else:
                grades[query][row] = int(float(score))
    return grades


def _by_id(name: str, folder: Path, stem: str, table: datasets.Dataset, dropped: Counter[str]) -> dict[str, str]:
    """The texts by id; the title comes before the text, as in BEIR."""
    _require_columns(f"{name} ({stem})", str(folder), table.column_names, ("_id", "text"))
    texts: dict[str, str] = {}
    for batch in table.iter(batch_size=10_000):
        titles = batch.get("title") or [""] * len(batch["_id"])
        for identity, title, body in zip(batch["_id"], titles, batch["text"], strict=True):
            key, text = _identity(identity), f"{_text(title) or ''} {_text(body) or ''}".strip()
            if not text:
                dropped[f"an empty text in `{stem}`"] += 1
            elif texts.setdefault(key, text) != text:
                raise errors.DataError(
                    f"{name}: {folder}/{stem} has two different texts under the id {key!r}; ids must be unique."
                )
    repeated = len(table) - len(texts) - dropped[f"an empty text in `{stem}`"]
    if repeated:
        dropped[f"an id and text given twice in `{stem}`"] += repeated
    return texts
