"""Frozen embeddings on disk: computed once per encoder and texts, memory-mapped by every trial.

A table lies in a folder named by the digest of what its rows depend on: the encoder's fingerprint (weights, pooling,
prompt, maximum length, tokenizer) and the texts. It is written beside its place under a lock and moved there when it is
complete, so a folder under that name is either whole or was damaged later, which its checksum tells.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray import storage

FORMAT = 1
EMBEDDINGS, DESCRIPTION = "embeddings.npy", "meta.json"
TEXTS_PER_CHUNK = 8192  # bounds the memory that filling takes


@dataclass(frozen=True)
class Table:
    """Embeddings `[rows, dimension]` in float32, one row a text."""

    folder: str
    rows: int
    dimension: int

    def open(self) -> Tensor:
        """The embeddings, memory-mapped: processes on one machine share the pages. Writing to them changes no file.

        From an object store they are brought to each node once.
        """
        array = np.load(_here(self.folder) / EMBEDDINGS, mmap_mode="c", allow_pickle=False)
        assert array.shape == (self.rows, self.dimension), f"{self.folder} changed while in use"
        return torch.from_numpy(array)


@dataclass(frozen=True)
class Progress:
    """Rows done while a table is filled; `note` says why a table that was there is not used."""

    done: int
    total: int
    note: str = ""


def find(root: Path, fingerprint: str, texts: Sequence[str], dimension: int) -> Table | None:
    """The table of some texts, where there is one and it is whole."""
    key = _key(fingerprint, texts)
    table = Table(str(root / key), len(texts), dimension)
    return table if _fault(root / key, key, table) is None else None


def fill(
    root: Path, fingerprint: str, texts: Sequence[str], blocks: Iterable[Tensor], dimension: int
) -> Generator[Progress, None, Table]:
    """Find or compute the table of some texts, yielding progress; the table is the generator's return value.

    `blocks` are their embeddings in order, some rows at a time; they are asked for only where there is no table.
    Waits while another process fills the same table. A table that is truncated, corrupt or of another make is rebuilt.
    """
    key = _key(fingerprint, texts)
    folder = root / key
    table = Table(str(folder), len(texts), dimension)
    with storage.lock(root / f".{key}.lock", wait=True):
        fault = _fault(folder, key, table)
        if fault is None:
            return table
        yield Progress(0, len(texts), fault and f"the cached table {folder.name} {fault}; rebuilding")
        storage.forget(folder)
        with storage.building(folder, DESCRIPTION) as partial:
            yield from _write(partial / EMBEDDINGS, table, blocks)
            meta = _meta(key, table) | {"sha256": _digest(partial / EMBEDDINGS)}
            storage.write(partial / DESCRIPTION, json.dumps(meta, indent=2))
    return table


def chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in portions of which one fits into memory beside its embeddings."""
    return (texts[start : start + TEXTS_PER_CHUNK] for start in range(0, len(texts), TEXTS_PER_CHUNK))


def _write(path: Path, table: Table, blocks: Iterable[Tensor]) -> Iterator[Progress]:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(table.rows, table.dimension))
    done = 0
    for block in blocks:
        array[done : done + len(block)] = block.numpy()
        done += len(block)
        yield Progress(done, table.rows)
    assert done == table.rows, f"{done} of {table.rows} texts were embedded"
    array.flush()
    del array
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _key(fingerprint: str, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{FORMAT} {fingerprint} {len(texts)}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def _meta(key: str, table: Table) -> dict[str, Any]:
    return {"format": FORMAT, "key": key, "rows": table.rows, "dimension": table.dimension}


def _here(folder: str) -> Path:
    return storage.fetched(storage.folder(folder))


def _fault(folder: Path, key: str, table: Table) -> str | None:
    """What is wrong with a table: `None` where it is whole, and an empty text where there is none."""
    if not storage.found(folder, "*"):
        return ""
    try:
        meta = json.loads(storage.read(folder / DESCRIPTION) or b"")
    except ValueError:
        return "has no readable description"
    if not isinstance(meta, dict) or {k: meta.get(k) for k in _meta(key, table)} != _meta(key, table):
        return "describes other data"
    here = _here(table.folder) / EMBEDDINGS
    try:
        array = np.load(here, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return "is truncated or unreadable"
    if array.shape != (table.rows, table.dimension) or array.dtype != np.float32:
        return "has another shape"
    if _digest(here) != meta.get("sha256"):
        return "does not match its checksum"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
