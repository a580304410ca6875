"""Folders and object stores are used alike: whole files, one holder at a time, and patience with what is away."""

from __future__ import annotations

import errno
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adiabatic_ray import errors, storage


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    if request.param == "disk":
        return storage.folder(tmp_path / "results")
    request.getfixturevalue("s3")
    return storage.folder("s3://bucket/results")


@pytest.fixture
def away(s3: Any) -> Iterator[Path]:
    """A file in an object store that is not there at the moment."""
    path = storage.folder("s3://bucket/results") / "file"
    storage.write(path, "old")
    s3.stop()
    yield path
    if not s3._thread.is_alive():
        s3.start()


def test_files(root: Path) -> None:
    file = root / "trials" / "0001" / "trial.json"
    assert storage.read(file) is None
    assert not storage.exists(file)
    assert storage.found(root, "trials/*/trial.json") == []
    storage.write(file, "ü")
    storage.write(root / "trials" / "0002" / "trial.json", b"two")
    assert storage.read(file) == "ü".encode()
    assert storage.exists(file)
    assert storage.exists(root / "trials")
    assert [found.parent.name for found in storage.found(root, "trials/*/trial.json")] == ["0001", "0002"]
    with storage.local(file) as here:
        assert (here.name, here.read_bytes()) == ("trial.json", "ü".encode())
    storage.drop(file)
    storage.drop(file)
    assert not storage.exists(file)
    storage.remove(root / "trials")
    storage.remove(root / "trials")
    assert not storage.exists(root / "trials")


def test_a_write_that_fails_leaves_the_old_file(root: Path) -> None:
    file = root / "file"
    storage.write(file, "old")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        storage.produce(file, fail)
    assert storage.read(file) == b"old"


def test_a_folder_takes_the_place_of_another_when_it_is_whole(root: Path) -> None:
    target = root / "best"
    with storage.building(target, last="mark") as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "old").write_text("1")
        (partial / "mark").write_text("1")

    def break_off() -> None:
        with storage.building(target, last="mark") as partial:
            (partial / "mark").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert storage.read(target / "mark") == b"1"
    with storage.building(target, last="mark") as partial:
        (partial / "new").write_text("3")
        (partial / "mark").write_text("3")
    with storage.local(target) as here:
        assert {file.name: file.read_text() for file in here.rglob("*")} == {"new": "3", "mark": "3"}


def test_a_node_fetches_a_folder_once(root: Path) -> None:
    with storage.building(root / "model") as partial:
        (partial / "weights").write_text("w")
    first = storage.fetched(root / "model")
    assert (first / "weights").read_text() == "w"
    if storage.is_remote(root):
        assert first.is_relative_to(storage.own_folder())
        storage.remove(root / "model")
        assert storage.fetched(root / "model") == first  # without asking for it again
        storage.forget(root / "model")
        assert not first.exists()


def test_one_holder_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LEASE", 1.5)
    path, events = root / ".lock", []
    assert not storage.held(path)
    with storage.lock(path, wait=False):
        assert storage.held(path)
        with pytest.raises(storage.Held), storage.lock(path, wait=False):
            pass

        def wait() -> None:
            with storage.lock(path, wait=True):
                events.append("second")

        second = threading.Thread(target=wait)
        second.start()
        time.sleep(2)
        events.append("first ends")
    second.join(timeout=20)
    assert events == ["first ends", "second"]
    assert not storage.held(path)


def test_a_lease_that_nobody_renews_is_taken_over(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr(storage, "LEASE", 1.0)
    path = storage.folder("s3://bucket/results") / ".lock"
    storage.write(path, "somebody-who-was-killed 7")
    began = time.monotonic()
    with storage.lock(path, wait=False):
        assert time.monotonic() - began >= 1.0
        assert storage.held(path)


def test_a_holder_learns_that_its_lease_was_taken_over(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setattr(storage, "LEASE", 1.0)
    path, lost = storage.folder("s3://bucket/results") / ".lock", threading.Event()
    with storage.lock(path, wait=False, lost=lost.set):
        assert not lost.wait(1.0)
        storage.write(path, "another 0")  # who found it unrenewed, as of a machine that was suspended
        assert lost.wait(5.0)
    assert storage.read(path) == b"another 0"


class Busy(http.server.BaseHTTPRequestHandler):
    """What S3 answers when it has too much to do."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.slow
def test_a_listing_that_fails_is_not_an_empty_one(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = storage.folder("s3://bucket/results")
    for number in range(3):
        storage.write(root / "trials" / f"{number:04d}" / "trial.json", "x")
    s3.stop()
    monkeypatch.setattr(storage, "PATIENCE", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", s3._port), Busy) as busy:
        threading.Thread(target=busy.serve_forever).start()
        with pytest.raises(errors.StorageError, match=r"did not answer for 0 s .*reduce your request rate"):
            storage.found(root, "trials/*/trial.json")
        busy.shutdown()
    s3.start()
    assert len(storage.found(root, "trials/*/trial.json")) == 3


def test_a_server_that_is_away_for_a_while_is_waited_for(away: Path, s3: Any) -> None:
    back = threading.Timer(2.0, s3.start)
    back.start()
    storage.write(away, "new")
    back.join()
    assert storage.read(away) == b"new"


def test_a_disk_that_is_away_for_a_while_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    troubles = [OSError(errno.EIO, "Input/output error")]

    def make(partial: Path) -> None:
        partial.write_text("new")
        if troubles:
            raise troubles.pop()

    storage.produce(tmp_path / "file", make)
    assert storage.read(tmp_path / "file") == b"new"
    assert "the storage does not answer (OSError: [Errno 5] Input/output error); trying" in capsys.readouterr().err


@pytest.mark.slow
def test_a_storage_that_stays_away_is_an_error(away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.5)
    with pytest.raises(errors.StorageError, match=r"did not answer for 0 s .*run the same command again"):
        storage.read(away)


def test_a_protocol_that_nothing_speaks() -> None:
    with pytest.raises(errors.ConfigError, match=r"storage: nonsense://x/y cannot be used: .*pip install s3fs"):
        storage.folder("nonsense://x/y")
    assert storage.folder("file:///results/x") == Path("/results/x")
