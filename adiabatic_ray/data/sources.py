"""Reading data sets: hub ids and local files in the layouts of MS MARCO triplets, XNLI and BEIR."""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets

TEXT_COLUMNS: tuple[config.Column, ...] = ("query", "positive", "negative")
ID_COLUMNS = ("query_id", "positive_id", "negative_id")
XNLI_COLUMNS = ("premise", "hypothesis", "label")
FLAT_XNLI_COLUMNS: tuple[config.Column, ...] = ("language", "premise", "hypothesis", "label", "id")
LABELS = ("entailment", "neutral", "contradiction")

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}


def load(name: str, source: config.Source, seed: int) -> sets.DataSet:
    """Read a data set; what kind it is follows from its columns.

    With `limit`, that many triplets, premises or queries are drawn at random with `seed`.

    Raises:
        DataError: the source cannot be read, or lacks a column, a language or a usable row.
    """
    if Path(source.path).is_dir() and _table(Path(source.path), "corpus"):
        return _ranking(name, source, seed)
    rows = _read(name, source)
    columns = rows.column_names
    if set(_named(source, FLAT_XNLI_COLUMNS)) <= set(columns):
        return _xnli(name, source, _nested(name, source, rows), seed)
    if not source.columns and set(XNLI_COLUMNS) <= set(columns):
        return _xnli(name, source, list(rows), seed)
    if not source.columns and set(ID_COLUMNS) <= set(columns):
        return _triplets_by_id(name, source, rows, seed)
    return _triplets(name, source, rows, seed)


def is_hub_id(path: str) -> bool:
    """Whether a source's path names a data set on the hub: it has the form `owner/name`, and no such file exists."""
    looks_local = path.startswith((".", "/")) or Path(path).suffix in _FORMATS
    return path.count("/") == 1 and not looks_local and not Path(path).exists()


# ---- reading -------------------------------------------------------------------------------------------------------


def _read(name: str, source: config.Source) -> datasets.Dataset:
    path = Path(source.path)
    if path.is_file():
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
    """How to read a comma- or tab-separated file so that every cell is a text: `NA` and `007` stay what they are."""
    tabs = path.suffix == ".tsv"  # such collections hold bare quotation marks; comma-separated ones quote
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
        found = datasets.load_dataset(path, split=source.split, **options)
    except Exception as error:
        # The library wraps the cause (a bad byte, a malformed line) in an error that only says that it failed.
        raise errors.DataError(f"{name}: cannot read {source.path}: {_root_cause(error)}") from error
    finally:
        if not shown:
            datasets.enable_progress_bars()
    if isinstance(found, datasets.DatasetDict):
        if len(found) > 1:
            raise errors.DataError(f"{name}: {source.path} has the splits {sorted(found)}; choose one with `split`.")
        found = next(iter(found.values()))
    return found


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start}: {error.reason}); convert it to UTF-8."
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _table(folder: Path, stem: str) -> Path | None:
    """`folder/stem` in the first format that exists."""
    return next((p for suffix in _FORMATS if (p := folder / f"{stem}{suffix}").is_file()), None)


def _require_columns(name: str, path: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in present]
    if missing:
        raise errors.DataError(
            f"{name}: {path} lacks the column{'s' if len(missing) > 1 else ''} {_quoted(missing)}; it has "
            f"{_quoted(present)}. Name yours with `columns: {{query: ..., positive: ..., negative: ...}}`."
        )


def _named(source: config.Source, columns: Sequence[config.Column]) -> list[str]:
    """The names that a file has for these columns."""
    return [source.columns.get(column, column) for column in columns]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def _usable(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())


def _sample(count: int, limit: int | None, seed: int) -> list[int]:
    """Row numbers of a random sample, in their order in the file."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), limit))  # noqa: S311 - not cryptography


def _require_rows(name: str, path: str, kept: int, dropped: Counter[str]) -> None:
    if kept == 0:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise errors.DataError(f"{name}: {path} has no usable row" + (f" ({reasons})." if reasons else "."))


# ---- triplets ------------------------------------------------------------------------------------------------------


def _triplets(name: str, source: config.Source, rows: datasets.Dataset, seed: int) -> sets.Triplets:
    names = _named(source, TEXT_COLUMNS)
    _require_columns(name, source.path, rows.column_names, names)
    rows = rows.select_columns(names).select(_sample(len(rows), source.limit, seed))
    texts = [list(rows[column]) for column in names]
    return _build_triplets(name, source.path, zip(*texts, strict=True))


def _triplets_by_id(name: str, source: config.Source, rows: datasets.Dataset, seed: int) -> sets.Triplets:
    """The layout of `sentence-transformers/msmarco`: triplets of ids beside the subsets `queries` and `corpus`."""
    rows = rows.select(_sample(len(rows), source.limit, seed))
    query_ids, positive_ids, negative_ids = ([str(i) for i in rows[column]] for column in ID_COLUMNS)

    def texts(subset: str, id_column: str, text_column: str, wanted: set[str]) -> dict[str, str]:
        whole = config.Source(path=source.path, name=subset, revision=source.revision, split="train")
        table = _read(f"{name} ({subset})", whole)
        _require_columns(f"{name} ({subset})", source.path, table.column_names, (id_column, text_column))
        found: dict[str, str] = {}
        for batch in table.iter(batch_size=10_000):
            for identity, text in zip(batch[id_column], batch[text_column], strict=True):
                if str(identity) in wanted and found.setdefault(str(identity), text) != text:
                    raise errors.DataError(
                        f"{name}: `{subset}` of {source.path} has two different texts under the id {identity}; "
                        "ids must be unique."
                    )
        return found

    queries = texts("queries", "query_id", "query", set(query_ids))
    corpus = texts("corpus", "passage_id", "passage", {*positive_ids, *negative_ids})
    found = (
        (queries.get(q), corpus.get(p), corpus.get(n))
        for q, p, n in zip(query_ids, positive_ids, negative_ids, strict=True)
    )
    return _build_triplets(name, source.path, found)


def _build_triplets(name: str, path: str, rows: Iterator[tuple[Any, ...]]) -> sets.Triplets:
    queries: dict[str, int] = {}
    passages: dict[str, int] = {}
    kept: list[tuple[int, int, int]] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        lacking = [column for column, text in zip(TEXT_COLUMNS, row, strict=True) if not _usable(text)]
        if lacking:
            dropped[f"an empty or missing `{lacking[0]}`"] += 1
            continue
        query, positive, negative = row
        kept.append((*sets.index([query], queries), *sets.index([positive, negative], passages)))  # type: ignore[arg-type]
    _require_rows(name, path, len(kept), dropped)
    query_rows, positive_rows, negative_rows = np.array(kept, dtype=np.int64).T.copy()
    return sets.Triplets(
        name=name,
        queries=list(queries),
        passages=list(passages),
        query=query_rows,
        positive=positive_rows,
        negative=negative_rows,
        dropped=dict(dropped),
    )


# ---- XNLI ----------------------------------------------------------------------------------------------------------


def _nested(name: str, source: config.Source, rows: datasets.Dataset) -> list[dict[str, Any]]:
    """The layout of XNLI's own TSV files, one row a language, as rows of `all_languages`.

    `id` is the same for the three pairs of a premise in all languages (`promptID` in XNLI).
    """
    found: dict[tuple[Any, int], dict[str, Any]] = {}
    columns = (rows[column] for column in _named(source, FLAT_XNLI_COLUMNS))
    for language, premise, hypothesis, label, identity in zip(*columns, strict=True):
        known = LABELS.index(label) if label in LABELS else int(label) if str(label) in ("0", "1", "2") else -1
        row = found.setdefault(
            (identity, known), {"premise": {}, "hypothesis": {"language": [], "translation": []}, "label": known}
        )
        if known >= 0 and language in row["premise"]:
            raise errors.DataError(
                f"{name}: {source.path} has two pairs of the label {label!r} in {language} under the id {identity}; "
                "`columns: {id: ...}` must name a column that tells premises apart."
            )
        row["premise"][language] = premise
        row["hypothesis"]["language"].append(language)
        row["hypothesis"]["translation"].append(hypothesis)
    return list(found.values())


def _xnli(name: str, source: config.Source, rows: Sequence[dict[str, Any]], seed: int) -> sets.Xnli:
    """The layout of `facebook/xnli`, `all_languages`: three rows a premise, one for each label."""
    groups: dict[str, list[dict[str, Any] | None]] = {}
    dropped: Counter[str] = Counter()
    first = rows[0] if len(rows) else {"premise": {}}
    if not isinstance(first["premise"], dict):
        raise errors.DataError(
            f"{name}: {source.path} holds one language; expected premises in several, as in the subset "
            "`all_languages` of `facebook/xnli` (`name: all_languages`)."
        )
    present = sorted({language for row in rows for language in row["premise"]})
    languages = source.languages or present
    unknown = [language for language in languages if language not in present]
    if unknown:
        raise errors.DataError(f"{name}: {source.path} lacks the languages {unknown}; it has {present}.")

    for row in rows:
        label = row["label"]
        if label not in (0, 1, 2):
            dropped["a label other than 0, 1 and 2"] += 1
            continue
        group = groups.setdefault("\n".join(str(row["premise"].get(language)) for language in languages), [None] * 3)
        if group[label] is not None:
            dropped["a second hypothesis of the same label"] += 1
            continue
        group[label] = row
    complete: list[list[dict[str, Any]]] = []
    for group in groups.values():
        whole = [row for row in group if row is not None]
        if len(whole) < 3:
            dropped["a premise that lacks one of its three hypotheses"] += len(whole)
        elif not all(_usable(text) for row in whole for text in _xnli_texts(row, languages)):
            dropped["a text missing in one of the languages"] += 3
        else:
            complete.append(whole)
    _require_rows(name, source.path, len(complete), dropped)

    queries: dict[str, int] = {}
    passages: dict[str, int] = {}
    premise, hypotheses = [], []
    for i in _sample(len(complete), source.limit, seed):
        group_rows = complete[i]
        premise.append(sets.index([group_rows[0]["premise"][language] for language in languages], queries))
        hypotheses.append([sets.index(_hypothesis(row, languages), passages) for row in group_rows])
    by_label = np.array(hypotheses, dtype=np.int64)  # [n, 3, L]
    return sets.Xnli(
        name=name,
        languages=list(languages),
        queries=list(queries),
        passages=list(passages),
        premise=np.array(premise, dtype=np.int64),
        **{label: np.ascontiguousarray(by_label[:, i]) for i, label in enumerate(LABELS)},
        dropped=dict(dropped),
    )


def _hypothesis(row: dict[str, Any], languages: Sequence[str]) -> list[Any]:
    texts = dict(zip(row["hypothesis"]["language"], row["hypothesis"]["translation"], strict=True))
    return [texts.get(language) for language in languages]


def _xnli_texts(row: dict[str, Any], languages: Sequence[str]) -> list[Any]:
    return [*(row["premise"].get(language) for language in languages), *_hypothesis(row, languages)]


# ---- BEIR ----------------------------------------------------------------------------------------------------------


def _ranking(name: str, source: config.Source, seed: int) -> sets.Ranking:
    """A BEIR folder: `corpus`, `queries`, and `qrels` or `qrels/<split>`, each in any of the table formats."""
    folder = Path(source.path)
    split = source.split or "test"
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
    dropped: Counter[str] = Counter()
    corpus = _by_id(name, folder, "corpus", tables["corpus"], dropped)
    queries = _by_id(name, folder, "queries", tables["queries"], dropped)
    _require_columns(f"{name} (qrels)", source.path, tables["qrels"].column_names, ("query-id", "corpus-id", "score"))

    row_of = {identity: row for row, identity in enumerate(corpus)}
    judged: dict[str, dict[int, int]] = {}
    for batch in tables["qrels"].iter(batch_size=10_000):
        for query_id, corpus_id, score in zip(batch["query-id"], batch["corpus-id"], batch["score"], strict=True):
            if str(query_id) not in queries:
                dropped["a judgement of an unknown query"] += 1
            elif str(corpus_id) not in row_of:
                dropped["a judgement of an unknown passage"] += 1
            elif row_of[str(corpus_id)] in judged.setdefault(str(query_id), {}):
                dropped["a second judgement of the same pair"] += 1
            else:
                judged[str(query_id)][row_of[str(corpus_id)]] = int(float(score))
    # As in trec_eval, a query without a relevant passage measures nothing.
    answerable = [i for i in queries if any(grade > 0 for grade in judged.get(i, {}).values())]
    dropped["a query without a relevant passage"] += len(queries) - len(answerable)
    _require_rows(name, source.path, len(answerable), dropped)
    chosen = [answerable[i] for i in _sample(len(answerable), source.limit, seed)]
    return sets.Ranking(
        name=name,
        queries=[queries[i] for i in chosen],
        passages=list(corpus.values()),
        judgements=[judged[i] for i in chosen],
        identical=np.array([row_of.get(i, -1) for i in chosen], dtype=np.int64),
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _by_id(name: str, folder: Path, stem: str, table: datasets.Dataset, dropped: Counter[str]) -> dict[str, str]:
    """Texts by id; a title goes before the text, as in BEIR."""
    _require_columns(f"{name} ({stem})", str(folder), table.column_names, ("_id", "text"))
    texts: dict[str, str] = {}
    for batch in table.iter(batch_size=10_000):
        titles = batch.get("title") or [""] * len(batch["_id"])
        for identity, title, body in zip(batch["_id"], titles, batch["text"], strict=True):
            text = f"{title or ''} {body or ''}".strip()
            if not text:
                dropped[f"an empty text in `{stem}`"] += 1
            elif texts.setdefault(str(identity), text) != text:
                raise errors.DataError(
                    f"{name}: {folder}/{stem} has two different texts under the id {str(identity)!r}; "
                    "ids must be unique."
                )
    repeated = len(table) - len(texts) - dropped[f"an empty text in `{stem}`"]
    if repeated:
        dropped[f"an id and text given twice in `{stem}`"] += repeated
    return texts
