"""Frozen embeddings on disk: computed once per encoder and texts, memory-mapped by every trial.

A table lies in a folder named by the digest of what its rows depend on: the encoder's fingerprint (weights, pooling,
prompt, maximum length, tokenizer) and the texts. It is written beside its place under a lock and moved there when it is
complete, so a folder under that name is either whole or was damaged later, which its checksum tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor

FORMAT = 1
TEXTS_PER_CHUNK = 8192  # bounds the memory that filling takes


@dataclass(frozen=True)
class Table:
    """Embeddings `[rows, dimension]` in float32, one row a text."""

    folder: str
    rows: int
    dimension: int

    def open(self) -> Tensor:
        """The embeddings, memory-mapped: processes on one machine share the pages. Writing to them changes no file."""
        array = np.load(Path(self.folder) / "embeddings.npy", mmap_mode="c", allow_pickle=False)
        assert array.shape == (self.rows, self.dimension), f"{self.folder} changed while in use"
        return torch.from_numpy(array)


@dataclass(frozen=True)
class Progress:
    """Rows done while a table is filled; `note` says why a table that was there is not used."""

    done: int
    total: int
    note: str = ""


def fill(
    root: Path,
    fingerprint: str,
    texts: Sequence[str],
    encode: Callable[[Sequence[str]], Tensor],
    dimension: int,
) -> Generator[Progress, None, Table]:
    """Find or compute the table of some texts, yielding progress; the table is the generator's return value.

    Waits while another process fills the same table. A table that is truncated, corrupt or of another make is rebuilt.
    """
    key = _key(fingerprint, texts)
    folder, partial = root / key, root / f".{key}.partial"
    table = Table(str(folder), len(texts), dimension)
    root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(root / f".{key}.lock"):
        fault = _fault(folder, key, table) if folder.exists() else "absent"
        if fault is None:
            return table
        yield Progress(
            0, len(texts), "" if fault == "absent" else f"the cached table {folder.name} {fault}; rebuilding"
        )
        for leftover in (partial, folder):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir()
        array = np.lib.format.open_memmap(
            partial / "embeddings.npy", mode="w+", dtype=np.float32, shape=(len(texts), dimension)
        )
        for start in range(0, len(texts), TEXTS_PER_CHUNK):
            chunk = texts[start : start + TEXTS_PER_CHUNK]
            array[start : start + len(chunk)] = encode(chunk).numpy()
            yield Progress(start + len(chunk), len(texts))
        array.flush()
        del array
        meta = _meta(key, table) | {"sha256": _digest(partial / "embeddings.npy")}
        (partial / "meta.json").write_text(json.dumps(meta, indent=2))
        _sync(partial / "embeddings.npy")
        _sync(partial / "meta.json")
        partial.rename(folder)
    return table


def _key(fingerprint: str, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(f"{FORMAT} {fingerprint} {len(texts)}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def _meta(key: str, table: Table) -> dict[str, Any]:
    return {"format": FORMAT, "key": key, "rows": table.rows, "dimension": table.dimension}


def _fault(folder: Path, key: str, table: Table) -> str | None:
    """What is wrong with a table on disk, or `None`."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except (OSError, ValueError):
        return "has no readable description"
    if not isinstance(meta, dict) or {k: meta.get(k) for k in _meta(key, table)} != _meta(key, table):
        return "describes other data"
    try:
        array = np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return "is truncated or unreadable"
    if array.shape != (table.rows, table.dimension) or array.dtype != np.float32:
        return "has another shape"
    if _digest(folder / "embeddings.npy") != meta.get("sha256"):
        return "does not match its checksum"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
