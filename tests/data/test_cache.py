"""Tables are computed once, whole or absent, and never used when damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from adiabatic_ray import storage
from adiabatic_ray.data import cache
from tests.generators import drain
from tests.waiting import until

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    from moto.server import ThreadedMotoServer

    Counter = Synchronized[int]

TEXTS = [f"text {i}" for i in range(10)]


def embed(texts: Sequence[str]) -> torch.Tensor:
    return torch.tensor([[float(len(text)), float(text[-1])] for text in texts])


def fill(
    root: Path, texts: Sequence[str] = TEXTS, fingerprint: str = "model", encode: Callable[..., torch.Tensor] = embed
) -> tuple[cache.Table, list[cache.Progress]]:
    """The table, and the progress that was made; none where the cache had it."""
    seen, table = drain(cache.fill(root, fingerprint, texts, map(encode, cache.chunks(texts)), 2))
    return table, seen


def test_second_fill_computes_nothing(tmp_path: Path) -> None:
    table, seen = fill(tmp_path)
    assert [p.done for p in seen] == [0, 10]
    again, seen_again = fill(tmp_path, encode=lambda _: pytest.fail("embedded again"))
    assert (again, seen_again) == (table, [])
    assert torch.equal(table.open(), embed(TEXTS))


def test_texts_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "TEXTS_PER_CHUNK", 4)
    table, seen = fill(tmp_path)
    assert [p.done for p in seen] == [0, 4, 8, 10]
    assert torch.equal(table.open(), embed(TEXTS))


@pytest.mark.slow
def test_a_table_in_an_object_store(s3: ThreadedMotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    root = storage.folder("s3://bucket/cache")
    for node in ("one", "two"):  # each has a disk of its own
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / node))
        table, seen = fill(root)
        assert len(seen) == (2 if node == "one" else 0)
        assert torch.equal(table.open(), embed(TEXTS))
        (copy,) = (tmp_path / node).rglob("embeddings.npy")
        assert np.array_equal(np.load(copy), embed(TEXTS))
    assert cache.find(root, "model", TEXTS, 2) == table
    assert cache.find(root, "other model", TEXTS, 2) is None
    storage.write(root / Path(table.folder).name / "embeddings.npy", b"half of it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "three"))
    assert "truncated" in fill(root)[1][0].note
    assert torch.equal(table.open(), embed(TEXTS))


def test_what_rows_depend_on_makes_the_key(tmp_path: Path) -> None:
    tables = [
        fill(tmp_path)[0],
        fill(tmp_path, fingerprint="other model")[0],
        fill(tmp_path, TEXTS[:-1])[0],
        fill(tmp_path, TEXTS[::-1])[0],
        fill(tmp_path, ["text 0text 1", *TEXTS[2:]])[0],
        fill(tmp_path, ["text 0", "text 1", *TEXTS[2:9], "text 9 "[:-1] + "9"])[0],
    ]
    assert len({table.folder for table in tables}) == len(tables)


def test_writing_to_an_open_table_changes_no_file(tmp_path: Path) -> None:
    table, _ = fill(tmp_path)
    opened = table.open()
    opened.zero_()
    assert torch.equal(table.open(), embed(TEXTS))


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda f: (f / "embeddings.npy").write_bytes((f / "embeddings.npy").read_bytes()[:-8]), "truncated"),
        (lambda f: (f / "embeddings.npy").write_bytes(b""), "truncated"),
        (lambda f: (f / "embeddings.npy").unlink(), "truncated"),
        (lambda f: flip_last_byte(f / "embeddings.npy"), "checksum"),
        (lambda f: (f / "meta.json").unlink(), "description"),
        (lambda f: (f / "meta.json").write_text("{"), "description"),
        (lambda f: (f / "meta.json").write_text("[]"), "describes other data"),
        (lambda f: np.save(f / "embeddings.npy", np.zeros((10, 3), np.float32)), "shape"),
        (lambda f: np.save(f / "embeddings.npy", np.array([object()]), allow_pickle=True), "unreadable"),
    ],
)
def test_damaged_table_is_rebuilt(tmp_path: Path, damage: Callable[[Path], object], note: str) -> None:
    table, _ = fill(tmp_path)
    damage(Path(table.folder))
    again, seen = fill(tmp_path)
    assert note in seen[0].note
    assert torch.equal(again.open(), embed(TEXTS))


def test_a_pickled_table_is_not_unpickled(tmp_path: Path) -> None:
    table, _ = fill(tmp_path)
    np.save(Path(table.folder) / "embeddings.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):  # one that was swapped after it was filled
        table.open()


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_foreign_table_under_our_name_is_rebuilt(tmp_path: Path) -> None:
    ours, theirs = fill(tmp_path)[0], fill(tmp_path, fingerprint="other model", encode=lambda t: -embed(t))[0]
    for name in ("embeddings.npy", "meta.json"):
        (Path(ours.folder) / name).write_bytes((Path(theirs.folder) / name).read_bytes())
    again, seen = fill(tmp_path)
    assert "describes other data" in seen[0].note
    assert torch.equal(again.open(), embed(TEXTS))


def test_interrupted_fill_leaves_nothing_to_find(tmp_path: Path) -> None:
    filling = cache.fill(tmp_path, "model", TEXTS, [embed(TEXTS)], 2)
    assert next(filling).done == 0
    filling.close()
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert torch.equal(fill(tmp_path)[0].open(), embed(TEXTS))


def fill_in_a_crowd(root: Path, log: Path, arrived: Counter, crowd: int) -> None:
    """Fill a table in a process of its own; whoever embeds waits until all of the crowd want the lock."""
    lock = storage.lock

    def announced(*arguments: Any, **options: Any) -> Any:
        with arrived.get_lock():
            arrived.value += 1
        return lock(*arguments, **options)

    def encode(texts: Sequence[str]) -> torch.Tensor:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        until(lambda: arrived.value == crowd, "all processes to want the table's lock")
        return embed(texts)

    storage.lock = announced
    fill(root, encode=encode)


def fill_without_end(root: Path, log: Path) -> None:
    """Fill a table in a process of its own that never comes to the end."""

    def encode(_: Sequence[str]) -> torch.Tensor:
        log.touch()
        signal.pause()
        raise AssertionError("the process was to be killed")

    fill(root, encode=encode)


def test_processes_at_once_embed_once(tmp_path: Path) -> None:
    log, crowd = tmp_path / "log", 4
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "root", log, context.Value("i", 0), crowd)
    workers = [context.Process(target=fill_in_a_crowd, args=arguments) for _ in range(crowd)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert len(log.read_text().splitlines()) == 1


def test_killed_process_gives_up_its_lock(tmp_path: Path) -> None:
    log = tmp_path / "log"
    worker = multiprocessing.get_context("fork").Process(target=fill_without_end, args=(tmp_path / "root", log))
    worker.start()
    until(log.exists, "the process to embed")
    worker.kill()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    assert torch.equal(fill(tmp_path / "root")[0].open(), embed(TEXTS))


def test_description_says_what_it_is(tmp_path: Path) -> None:
    table, _ = fill(tmp_path)
    meta = json.loads((Path(table.folder) / "meta.json").read_text())
    assert (meta["rows"], meta["dimension"], meta["key"]) == (10, 2, Path(table.folder).name)
