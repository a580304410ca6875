"""Embeddings that the user has stored: the files that hold them, and the row of each passage in them.

- `.npy`: a matrix, memory-mapped.
- `.safetensors`: its only matrix, memory-mapped.
- parquet, Arrow and JSONL: the only column of lists; a column `_id` or `id` holds the passages' ids, a column `text`
  their texts.
- `.faiss`, `.index`: a FAISS index that can give its vectors back; those of an `IndexIDMap` are the ids.

Numbers are float32, float64, float16 or bfloat16, or as sentence-transformers' `quantize_embeddings` makes them: int8
and uint8 with the ranges that it was given, or bits (`binary`, `ubinary`), which are read as -1 and 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.data.sets import Rows, Stored

Precision: TypeAlias = Literal["float32", "float16", "int8", "binary"]

TABLES = (".parquet", ".arrow", ".jsonl", ".json")
INDEXES = (".faiss", ".index")
ID_COLUMNS = ("_id", "id", "docid")
CHUNK = 8192  # rows
UNIT = 1e-4  # the largest distance of a unit length from 1
LOW_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Store:
    """An opened file: `raw` gives its rows as they are stored, and `read` as embeddings."""

    source: config.Embeddings
    count: int
    dimension: int
    precision: Precision
    raw: Callable[[Rows], Tensor]
    decode: Callable[[Tensor], Tensor]

    def read(self, rows: Rows) -> Tensor:
        """The embeddings `[n, d]` of these rows, in float32, with the lengths that they are stored with."""
        return self.decode(self.raw(rows))

    def digest(self) -> str:
        """A digest of all files that the embeddings depend on."""
        files = [self.source.path, *([self.source.ranges] if self.source.ranges else [])]
        return " ".join(_digest(Path(file)) for file in files)


def open_store(name: str, source: config.Embeddings, dimension: int) -> Store:
    """Open the stored embeddings of a model of `dimension` dimensions.

    Raises:
        DataError: there are none, they cannot be read, or they have another dimension.
    """
    shape, dtype, raw = _open(name, source)
    if len(shape) != 2:
        raise errors.DataError(f"{name}: {source.path} has the shape {list(shape)}; expected `[passages, dimension]`.")
    count, width = shape
    if width * 8 == dimension and dtype in (torch.int8, torch.uint8):
        return Store(source, count, dimension, "binary", raw, lambda rows: _bits(rows))
    if width != dimension:
        raise errors.DataError(
            f"{name}: the embeddings in {source.path} have {width} dimensions, and those of the model have {dimension}."
        )
    if dtype in (torch.int8, torch.uint8):
        return Store(source, count, dimension, "int8", raw, _of_ranges(name, source, dimension))
    if not dtype.is_floating_point:
        raise errors.DataError(f"{name}: {source.path} holds {dtype}; expected floating-point numbers, int8 or bits.")
    return Store(source, count, dimension, "float16" if dtype in LOW_PRECISION else "float32", raw, Tensor.float)


def with_texts(placed: Sequence[Stored], texts: Sequence[str]) -> Iterator[tuple[Stored, Sequence[str]]]:
    """What is stored of a set, with the texts of its passages."""
    first = 0
    for one in placed:
        yield one, texts[first : first + len(one.rows)]
        first += len(one.rows)


def is_whole(store: Store, placed: Stored) -> bool:
    """Whether the file is the table of the passages as it is: a float32 `.npy` with a row for each, in their order."""
    return (
        Path(store.source.path).suffix == ".npy"
        and store.raw(np.zeros(1, dtype=np.int64)).dtype == torch.float32
        and len(placed.rows) == store.count
        and bool((placed.rows == np.arange(store.count)).all())
    )


def is_unit(store: Store) -> bool:
    """Whether all embeddings have unit length."""
    blocks = (np.arange(start, min(start + CHUNK, store.count)) for start in range(0, store.count, CHUNK))
    return all(bool(((store.read(block).norm(dim=1) - 1).abs() < UNIT).all()) for block in blocks)


def find(
    name: str,
    source: config.Embeddings,
    passages: Sequence[str],
    ids: Sequence[str] | None = None,
    order: Sequence[int] | None = None,
    total: int = 0,
) -> Stored:
    """The stored row of each passage, by its id, by its text or by its place in the corpus.

    `ids` are those of the passages, and `order` is the place of each in the corpus of `total` passages.

    Raises:
        DataError: rows and passages cannot be brought together.
    """
    own_ids, own_texts, count = _labels(name, source)
    if own_ids is not None and ids is not None:
        return Stored(source, _matched(name, source, own_ids, ids, "id"))
    if own_texts is not None:
        return Stored(source, _matched(name, source, own_texts, passages, "text"))
    if order is None:
        raise errors.DataError(
            f"{name}: nothing says which passage a row of {source.path} belongs to, since this set has no corpus with "
            "ids. Store the embeddings in a parquet file with a column `text`."
        )
    if count != total:
        raise errors.DataError(
            f"{name}: {source.path} has {count:,} rows, and the corpus has {total:,}. Give "
            "`embeddings.ids`, a file with the passage's id for each row."
        )
    return Stored(source, np.array(order, dtype=np.int64))


def _matched(name: str, source: config.Embeddings, own: Sequence[str], wanted: Sequence[str], kind: str) -> Rows:
    row_of = {key: row for row, key in enumerate(own)}
    if len(row_of) < len(own) and kind == "id":
        raise errors.DataError(f"{name}: {source.ids or source.path} names an id twice; ids must be unique.")
    rows = np.array([row_of.get(key, -1) for key in wanted], dtype=np.int64)
    if (rows < 0).all():
        raise errors.DataError(
            f"{name}: none of the {len(own):,} {kind}s of {source.ids or source.path} is that of a passage: they are "
            f"{own[0]!r}, ..., and those of the passages {wanted[0]!r}, ..."
        )
    return rows


def _labels(name: str, source: config.Embeddings) -> tuple[list[str] | None, list[str] | None, int]:
    """The ids and the texts of the rows, where they have such, and their number."""
    path, ids = Path(source.path), None
    if source.ids is not None:
        ids = _ids(name, Path(source.ids))
    if path.suffix in TABLES:
        table = _table(name, source)
        column = next((one for one in ID_COLUMNS if one in table.column_names), None)
        if ids is None and column:
            ids = [_identity(one) for one in table[column][:]]
        texts = table["text"][:] if "text" in table.column_names else None
        count = len(table)
    else:
        texts = None
        if path.suffix in INDEXES:
            index, numbers = _index(name, source)
            count = index.ntotal
            ids = [str(one) for one in numbers.tolist()] if ids is None and numbers is not None else ids
        else:
            count = _open(name, source)[0][0]
    if ids is not None and len(ids) != count:
        raise errors.DataError(
            f"{name}: {source.ids or source.path} has {len(ids):,} ids for the {count:,} rows of {path}."
        )
    return ids, texts, count


def _ids(name: str, path: Path) -> list[str]:
    try:
        if path.suffix == ".npy":
            return [_identity(one) for one in np.load(path, allow_pickle=False).tolist()]
        if path.suffix == ".json":
            return [_identity(one) for one in json.loads(path.read_text("utf-8"))]
        return path.read_text("utf-8").splitlines()
    except (OSError, ValueError, TypeError) as error:
        raise errors.DataError(
            f"{name}: cannot read the ids in {path}: {errors.summary(error)} Expected a `.npy`, a list in `.json`, or "
            "a text with an id on each line."
        ) from error


def _open(name: str, source: config.Embeddings) -> tuple[Sequence[int], torch.dtype, Callable[[Rows], Tensor]]:
    """The shape and the type of a store, and a function from rows to what is stored in them."""
    path = Path(source.path)
    if not path.is_file():
        raise errors.DataError(f"{name}: `embeddings` names {path}, which is not a file.")
    try:
        if path.suffix == ".npy":
            matrix = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
            return matrix.shape, matrix.dtype, lambda rows: matrix[torch.from_numpy(rows)]
        if path.suffix == ".safetensors":
            stored = _matrix(name, path)
            return stored.shape, stored.dtype, lambda rows: stored[torch.from_numpy(rows)]
        if path.suffix in INDEXES:
            index, _ = _index(name, source)
            return (index.ntotal, index.d), torch.float32, lambda rows: torch.from_numpy(index.reconstruct_batch(rows))
        if path.suffix in TABLES:
            return _lists(name, source)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise errors.DataError(f"{name}: cannot read the embeddings in {path}: {errors.summary(error)}") from error
    raise errors.DataError(
        f"{name}: {path} has an unknown type; expected embeddings in a file ending in .npy, .safetensors, "
        f"{', '.join((*TABLES, *INDEXES))}."
    )


def _matrix(name: str, path: Path) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    matrices = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    if len(matrices) != 1:
        raise errors.DataError(f"{name}: {path} holds {len(matrices)} matrices ({sorted(tensors)}); expected one.")
    matrix: Tensor = matrices[0]
    return matrix


def _index(name: str, source: config.Embeddings) -> tuple[Any, Any]:
    """A FAISS index that gives its vectors back, and the ids of its rows where it has such."""
    try:
        import faiss
    except ImportError as error:
        extra = "pip install 'adiabatic-ray[faiss]'"
        raise errors.DataError(f"{name}: {source.path} is read with FAISS, which is not installed: {extra}") from error
    whole = faiss.read_index(source.path, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    index: Any = faiss.downcast_index(whole)
    ids = None
    if isinstance(index, faiss.IndexIDMap):
        ids = faiss.vector_to_array(index.id_map)
        index = faiss.downcast_index(index.index)
    if isinstance(index, faiss.IndexIVF):
        index.make_direct_map()
    index.referenced_objects = [whole]  # which it is a part of
    return index, ids


def _table(name: str, source: config.Embeddings) -> Any:
    from adiabatic_ray.data import tables  # import `datasets` where it is needed

    return tables.read(f"{name} (embeddings)", config.Source(path=source.path))


def _lists(name: str, source: config.Embeddings) -> tuple[Sequence[int], torch.dtype, Callable[[Rows], Tensor]]:
    """As `_open`, of a table."""
    table = _table(name, source)
    first = table[0]
    columns = [column for column, cell in first.items() if isinstance(cell, list)]
    if len(columns) != 1:
        raise errors.DataError(
            f"{name}: {source.path} has {len(columns)} columns of lists ({config.listed(table.column_names)}); "
            "expected one, the embeddings."
        )
    vectors = table.select_columns(columns).with_format("numpy")

    def raw(rows: Rows) -> Tensor:
        return torch.from_numpy(np.stack(list(vectors[rows][columns[0]])))

    one = raw(np.zeros(1, dtype=np.int64))
    return (len(table), one.shape[1]), one.dtype, raw


def _of_ranges(name: str, source: config.Embeddings, dimension: int) -> Callable[[Tensor], Tensor]:
    """A function from int8 or uint8 back to numbers: the middles of the steps that they were cut down to."""
    if source.ranges is None:
        raise errors.DataError(
            f"{name}: {source.path} holds quantised embeddings. Give `embeddings.ranges`, a `.npy` of the shape "
            f"[2, {dimension}]: the lowest and the highest value of each dimension, as `quantize_embeddings` got them."
        )
    try:
        ranges = np.load(source.ranges, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise errors.DataError(f"{name}: cannot read the ranges in {source.ranges}: {errors.summary(error)}") from error
    if ranges.shape != (2, dimension):
        raise errors.DataError(
            f"{name}: {source.ranges} has the shape {list(ranges.shape)}; expected [2, {dimension}]: the lowest and "
            "the highest value of each dimension."
        )
    lowest, step = torch.from_numpy(ranges[0]).float(), torch.from_numpy((ranges[1] - ranges[0]) / 255).float()

    def decode(rows: Tensor) -> Tensor:
        levels = rows.float() + (128 if rows.dtype == torch.int8 else 0)
        return lowest + (levels + 0.5) * step

    return decode


def _bits(rows: Tensor) -> Tensor:
    """-1 and 1 from packed bits; `binary` stores them less 128."""
    unsigned = (rows.int() + 128).to(torch.uint8) if rows.dtype == torch.int8 else rows
    return torch.from_numpy(np.unpackbits(unsigned.numpy(), axis=1)).float() * 2 - 1


def _identity(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
