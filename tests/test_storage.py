"""The storage behaves alike on a disk and in object stores: whole files, one holder at a time, retries when away."""

from __future__ import annotations

import concurrent.futures
import errno
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adiabatic_ray import errors, storage

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer


@pytest.fixture
def s3_root(s3: ThreadedMotoServer) -> Path:  # noqa: ARG001
    """A folder in an S3 store."""
    return storage.folder("s3://bucket/results")


@pytest.fixture(params=["disk", "s3", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a disk, in a store that creates files exclusively, and in one that does not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    if request.param == "disk":
        yield storage.folder(tmp_path / "results")
    elif request.param == "s3":
        yield request.getfixturevalue("s3_root")
    else:
        yield storage.folder("memory://results")
        storage.remove(storage.folder("memory://results"))


@pytest.fixture
def away(s3: ThreadedMotoServer, s3_root: Path) -> Iterator[Path]:
    """A file in an object store whose server is stopped."""
    storage.write(s3_root / "file", "old")
    s3.stop()
    yield s3_root / "file"
    if s3._thread is not None and not s3._thread.is_alive():
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
    monkeypatch.setattr(storage, "LEASE", 3.0)
    path, entered = root / ".lock", threading.Event()
    assert not storage.held(path)

    def wait() -> None:
        with storage.lock(path, wait=True):
            entered.set()

    second = threading.Thread(target=wait)
    with storage.lock(path, wait=False):
        assert storage.held(path)
        with pytest.raises(storage.LockHeld), storage.lock(path, wait=False):
            pass
        second.start()
        assert not entered.wait(2.0)
    assert entered.wait(20.0)
    second.join(20.0)
    assert not storage.held(path)


class Rivals:
    """Threads that ask for one lock at the same moment and do not wait for it."""

    def __init__(self, number: int) -> None:
        self._number, self._own = number, threading.local()
        self._stalled, self._decided = threading.Barrier(number), threading.Barrier(number)

    def stall(self) -> None:
        """Stop a rival that comes here for the first time until all rivals are here, and for its delay after that."""
        delay = self._own.__dict__.pop("delay", None)
        if delay is not None:
            self._stalled.wait(60.0)
            time.sleep(delay)

    def num_holders(self, path: Path, step: float) -> int:
        """Let all rivals ask for a lock, each delayed by `step` seconds more than the one before; count who gets it."""

        def ask(delay: float) -> bool:
            self._own.delay = delay
            try:
                with storage.lock(path, wait=False):
                    self._decided.wait(60.0)
                    return True
            except storage.LockHeld:
                self._decided.wait(60.0)
                return False

        with concurrent.futures.ThreadPoolExecutor(self._number) as pool:
            return sum(pool.map(ask, [rival * step for rival in range(self._number)]))


@pytest.mark.slow
def test_one_of_several_that_find_no_lease_creates_it(s3_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LEASE", 1.5)
    rivals, read = Rivals(4), storage.read

    def read_and_stall(path: Path) -> bytes | None:
        content = read(path)
        rivals.stall()
        return content

    monkeypatch.setattr(storage, "read", read_and_stall)
    # From all at once to one after another: a lease is looked at again 0.1 s after its creation.
    steps = [0.01 * round_number for round_number in range(16)]
    assert [rivals.num_holders(s3_root / f"{step}.lock", step) for step in steps] == [1] * 16


def test_one_of_several_that_find_a_stale_lease_takes_it_over(s3_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LEASE", 3.0)
    rivals, drop = Rivals(2), storage.drop

    def stall_and_drop(path: Path) -> None:
        rivals.stall()
        drop(path)

    monkeypatch.setattr(storage, "drop", stall_and_drop)
    storage.write(s3_root / ".lock", "a-process-that-was-killed 7")
    # The second deletes the lease that the first just created. The first looks at it again 0.2 s after its creation.
    assert rivals.num_holders(s3_root / ".lock", 0.05) == 1


def test_a_lease_that_nobody_renews_is_taken_over(s3_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LEASE", 1.0)
    path = s3_root / ".lock"
    storage.write(path, "a-process-that-was-killed 7")
    began = time.monotonic()
    with storage.lock(path, wait=False):
        assert time.monotonic() - began >= 1.0
        assert storage.held(path)


def test_a_holder_learns_that_its_lease_was_taken_over(s3_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LEASE", 1.0)
    path, lost = s3_root / ".lock", threading.Event()
    with storage.lock(path, wait=False, lost=lost.set):
        assert not lost.wait(1.0)
        storage.write(path, "another 0")  # as if this process had been suspended and another took the lease over
        assert lost.wait(5.0)
    assert storage.read(path) == b"another 0"


class Busy(http.server.BaseHTTPRequestHandler):
    """A server that answers as S3 does under too much load."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
def test_a_listing_that_fails_is_not_an_empty_one(
    s3: ThreadedMotoServer, s3_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        storage.write(s3_root / "trials" / f"{number:04d}" / "trial.json", "x")
    s3.stop()
    monkeypatch.setattr(storage, "PATIENCE", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", s3._port), Busy) as busy:
        threading.Thread(target=busy.serve_forever).start()
        with pytest.raises(errors.StorageError, match=r"did not answer for \d+ s .*reduce your request rate"):
            storage.found(s3_root, "trials/*/trial.json")
        busy.shutdown()
    s3.start()
    assert len(storage.found(s3_root, "trials/*/trial.json")) == 3


def test_a_server_that_is_away_for_a_while_is_waited_for(away: Path, s3: ThreadedMotoServer) -> None:
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
    with pytest.raises(errors.StorageError, match=r"did not answer for \d+ s .*run the same command again"):
        storage.read(away)


def test_a_protocol_that_nothing_speaks() -> None:
    with pytest.raises(errors.ConfigError, match=r"storage: nonsense://x/y cannot be used: .*pip install s3fs"):
        storage.folder("nonsense://x/y")
    assert storage.folder("file:///results/x") == Path("/results/x")
