"""Frozen embeddings on disk: computed once for an encoder and texts, and memory-mapped by every trial.

Each table has a folder. Its name is a digest of everything that the rows depend on: the encoder's fingerprint (weights,
pooling, prompt, maximum length, tokenizer) and the texts. A table is written under a lock to a temporary folder, which
gets its name when it is complete. So a folder with this name is complete, unless it was damaged later. A checksum shows
such damage.
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

from adiabatic_ray import errors, storage

FORMAT = 1
EMBEDDINGS, DESCRIPTION = "embeddings.npy", "meta.json"
TEXTS_PER_CHUNK = 8192  # bounds the memory that it takes to fill a table


@dataclass(frozen=True)
class Table:
    """Embeddings `[rows, dimension]` in float32, one row for each text: in the cache, or in the user's own `.npy`."""

    folder: str
    rows: int
    dimension: int
    file: str = EMBEDDINGS

    def open(self) -> Tensor:
        """The embeddings `[rows, dimension]`, memory-mapped. Writing to the tensor does not change the file.

        Processes on one machine share the memory. From an object store, each node copies the table once.
        """
        path = _here(self.folder) / self.file
        if not path.is_file():
            raise errors.DataError(f"{path} is not on this machine. Put it where all nodes of the cluster find it.")
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        assert array.shape == (self.rows, self.dimension), f"{path} changed while in use"
        return torch.from_numpy(array)


@dataclass(frozen=True)
class Progress:
    """How many rows of a table are filled. `note` says why an existing table is not used."""

    done: int
    total: int
    note: str = ""


def find(root: Path, fingerprint: str, texts: Sequence[str], dimension: int) -> Table | None:
    """The table of these texts. `None` if there is none, or it is damaged."""
    key = _key(fingerprint, texts)
    table = Table(str(root / key), len(texts), dimension)
    return table if _fault(root / key, key, table) is None else None


def fill(
    root: Path, fingerprint: str, texts: Sequence[str], blocks: Iterable[Tensor], dimension: int
) -> Generator[Progress, None, Table]:
    """Find or compute the table of these texts. Yields progress and returns the table.

    `blocks` yields the embeddings `[b, dimension]` of the next texts. It is not consumed if there is a table already.
    If another process fills the same table, this one waits. A damaged table is computed again.
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
    """Split texts into chunks that fit into memory together with their embeddings."""
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
    """What is wrong with a table: `None` if nothing is, and an empty text if there is no table."""
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
