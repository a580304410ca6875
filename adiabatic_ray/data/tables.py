"""Reads tables from files and from the hub, and cells as texts."""

from __future__ import annotations

import csv
import fnmatch
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from adiabatic_ray import config, errors

LANGUAGE: config.Column = "language"
TEXT_LANGUAGE: config.Column = "text_language"
UNKNOWN = "unknown"  # the language of a row that names none

FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv"}
COMPRESSED = (".gz", ".zst")
TREC_ENDINGS = (".txt", ".trec", ".qrels")

TREC_COLUMNS = ("query-id", "iteration", "corpus-id", "score")
# MS MARCO's own files, mMARCO's and MIRACL's have no header. Of several patterns the first that fits counts.
HEADERS: dict[str, tuple[str, ...]] = {
    "*triples*ids*.tsv": ("query_id", "positive_id", "negative_id"),
    "qidpidtriples.*.tsv": ("query_id", "positive_id", "negative_id"),
    "triples.*.tsv": ("query", "positive", "negative"),
    "*collection.tsv": ("_id", "text"),
    "*queries.*.tsv": ("_id", "text"),
    "topics.*.tsv": ("_id", "text"),
    "qrels.*.tsv": TREC_COLUMNS,
}


OF_LAYOUT = {
    "msmarco_triples": HEADERS["triples.*.tsv"],
    "msmarco_ids": HEADERS["qidpidtriples.*.tsv"],
    "msmarco_qrels": TREC_COLUMNS,
}


def is_hub_id(path: str) -> bool:
    """Whether a path names a data set on the hub: it has the form `owner/name`, and no such file exists."""
    looks_local = path.startswith((".", "/")) or ending(Path(path)) in FORMATS
    return path.count("/") == 1 and not looks_local and not Path(path).exists()


def plain_name(path: Path) -> str:
    """A file's name without the ending of its compression."""
    return path.stem if path.suffix in COMPRESSED else path.name


def ending(path: Path) -> str:
    """A file's ending, beside that of its compression."""
    return Path(plain_name(path)).suffix


def read(name: str, source: config.Source) -> datasets.Dataset:
    """Read a table from a file (also compressed), a folder or the hub.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    path = Path(source.path)
    if path.is_file():
        if not path.stat().st_size:
            raise errors.DataError(f"{name}: {path} is empty.")
        columns = OF_LAYOUT.get(source.layout or "")
        kind = "csv" if columns else FORMATS.get(ending(path))
        if kind is None:
            raise errors.DataError(
                f"{name}: {path} has an unknown type; expected a file ending in {', '.join(FORMATS)}, or in one of "
                f"these and {' or '.join(COMPRESSED)}."
            )
        options = _csv_options(name, path, columns) if kind == "csv" else {}
        return _load_dataset(name, source, kind, data_files=str(path), **options)
    if not path.is_dir() and not is_hub_id(source.path):
        raise errors.DataError(
            f"{name}: {source.path} does not exist, and is no hub id, which would have the form `owner/name`."
        )
    return _load_dataset(name, source, source.path, name=source.name, revision=source.revision)


def read_trec(name: str, source: config.Source) -> datasets.Dataset:
    """Read judgements as TREC writes them: four columns without a header, separated by spaces or tabs."""
    features = datasets.Features({column: datasets.Value("string") for column in TREC_COLUMNS})
    options = {"sep": r"\s+", "header": None, "names": list(TREC_COLUMNS), "features": features}
    return _load_dataset(name, source, "csv", data_files=source.path, quoting=csv.QUOTE_NONE, **options)


def _csv_options(name: str, path: Path, columns: tuple[str, ...] | None) -> dict[str, Any]:
    """Options that read every cell of a comma- or tab-separated file as text: `NA` and `007` stay as they are.

    A file of `columns` is tab-separated and has no header, or that one.
    """
    tabs = (
        columns is not None or ending(path) == ".tsv"
    )  # tab-separated collections hold bare quotation marks; comma-separated ones quote
    options: dict[str, Any] = {
        "sep": "\t" if tabs else ",",
        "quoting": csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        "keep_default_na": False,
        "encoding": "utf-8-sig",
    }
    try:
        first = pd.read_csv(path, nrows=1, header=None, dtype=str, **options).iloc[0].tolist()
    except (UnicodeDecodeError, ValueError) as error:
        raise errors.DataError(f"{name}: cannot read {path}: {_root_cause(error)}") from error
    if columns and len(columns) != len(first):
        raise errors.DataError(
            f"{name}: {path} has {len(first)} columns, and its layout has {len(columns)}: {config.listed(columns)}."
        )
    header = (columns if not set(columns) & set(first) else None) if columns else _known_header(path, first)
    if header:
        options |= {"header": None, "names": list(header)}
    options["features"] = datasets.Features({column: datasets.Value("string") for column in header or first})
    return options


def _known_header(path: Path, first: Sequence[str]) -> tuple[str, ...] | None:
    """The columns of a file that has no header, by its name, unless its first row is one."""
    known = next((columns for one, columns in HEADERS.items() if fnmatch.fnmatch(plain_name(path), one)), None)
    return known if known and len(known) == len(first) and not set(known) & set(first) else None


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


def subsets(source: config.Source) -> set[str]:
    """The names of a data set's subsets on the hub or in a folder, where the source names none of them.

    None of a file, or where they cannot be listed.
    """
    if source.name or not (Path(source.path).is_dir() or is_hub_id(source.path)):
        return set()
    try:
        return set(datasets.get_dataset_config_names(source.path, revision=source.revision))
    except Exception:  # noqa: BLE001 - whatever is wrong, `read` says it
        return set()


def file(folder: Path, stem: str, endings: Iterable[str] = FORMATS) -> Path | None:
    """The file `folder/stem` in the first format that exists, compressed or not."""
    names = (f"{stem}{one}{compression}" for one in endings for compression in ("", *COMPRESSED))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def queries_beside(name: str, path: Path) -> Path:
    """MS MARCO's queries that belong to a file: to `qrels.dev.small.tsv` `queries.dev.small` or `.dev`, else the only.

    Raises:
        DataError: there are none, or several that may be meant.
    """
    parts = plain_name(path).split(".")[1:-1]
    stems = [f"queries.{'.'.join(parts[:count])}" for count in range(len(parts), 0, -1)]
    of_its_part = next((found for stem in stems if (found := file(path.parent, stem))), None)
    every = [one for one in sorted(path.parent.glob("queries.*")) if ending(one) == ".tsv"]
    if of_its_part is None and len(every) != 1:
        wanted = f"{stems[0] if stems else 'queries'}.tsv"
        several = f" It has {config.listed(one.name for one in every)}." if every else ""
        raise errors.DataError(f"{name}: {path.parent} lacks `{wanted}`, which belongs to {path.name}.{several}")
    return of_its_part or every[0]


def require_columns(name: str, path: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in present]
    if missing:
        raise errors.DataError(
            f"{name}: {path} lacks the column{'s' if len(missing) > 1 else ''} {config.listed(missing)}; it has "
            f"{config.listed(present)}. Name yours with `columns: {{query: ..., positive: ..., negative: ...}}`."
        )


def named(source: config.Source, columns: Sequence[config.Column]) -> list[str]:
    """What the source calls these columns."""
    return [source.columns.get(column, column) for column in columns]


def text(value: Any) -> str | None:
    """A cell as a text; `None` if it has none. A number is a text, `7`, and so is the only element of a list."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = str(int(value) if value == int(value) else value)
    return value if isinstance(value, str) and value.strip() else None


def identity(value: Any) -> str:
    """An id as a text: 7 and 7.0 are the same one."""
    return text(value) or str(value)


def languages_in(table: datasets.Dataset, column: str) -> list[str]:
    """The language that each row names; nothing where the table has no such column."""
    return [text(one) or UNKNOWN for one in table[column][:]] if column in table.column_names else []


def sample(count: int, limit: int | None, seed: int) -> list[int]:
    """The row numbers of a random sample, in the order of the file."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), limit))  # noqa: S311 - not cryptography


def require_rows(name: str, path: str, kept: int, dropped: Mapping[str, int]) -> None:
    if kept == 0:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items() if count)
        raise errors.DataError(f"{name}: {path} has no usable row ({reasons or 'it is empty'}).")


def languages(name: str, source: config.Source, present: list[str]) -> list[str]:
    languages = source.languages or present
    unknown = [language for language in languages if language not in present]
    if unknown:
        raise errors.DataError(f"{name}: {source.path} lacks the languages {unknown}; it has {present}.")
    return list(languages)
