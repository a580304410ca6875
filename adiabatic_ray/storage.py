"""Where results lie: a folder that all nodes share, or the URL of an object store such as `s3://bucket/sweeps`.

Both are used by pathlib's methods; a URL is a `UPath`, for whose protocol fsspec's file system must be installed. What
differs between them is here: writing in one piece, one holder at a time, and what needs a file of this machine.

A storage that does not answer is waited for. One that does not come back is a `StorageError`, and no trial's failure:
what was stored is still there, and the sweep goes on from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar, cast

import filelock

from adiabatic_ray import errors

PATIENCE = 600.0  # seconds that a storage may be away
LEASE = 30.0  # seconds after which a holder that does not renew its lease has lost it
# What no waiting would change: the file is not there or not ours, or the mistake is in this program.
_FINAL = (
    *(FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ImportError, TypeError, ValueError, LookupError, AttributeError, AssertionError, MemoryError),
)

Result = TypeVar("Result")


class Held(Exception):
    """Another process holds the lock."""


def folder(where: str | Path) -> Path:
    """A place named by a path or a URL. Of a URL it is a `UPath`, which offers what is used of `Path` here.

    Raises:
        ConfigError: nothing is installed that speaks the URL's protocol.
    """
    text = str(where)
    if not is_remote(text):
        return Path(text.removeprefix("file://")).expanduser().resolve()
    from upath import UPath  # not needed, and perhaps not there, where all is on disk

    try:
        # Other processes write too, so what was listed before must not be taken for what is there.
        place = UPath(text, use_listings_cache=False)
        place.fs  # noqa: B018 - is made, or fails, on first use
    except (ImportError, ValueError) as error:
        raise errors.ConfigError(
            f"storage: {text} cannot be used: {error}. Install what speaks its protocol (`pip install s3fs` for s3://, "
            "`gcsfs` for gs://) here and on all nodes, or name a folder that all nodes share."
        ) from None
    return cast(Path, place)


def is_remote(where: str | Path) -> bool:
    """Whether a place is a URL, and not on a disk of this machine."""
    text = str(where)
    return "://" in text and not text.startswith("file://")


# ---- files ---------------------------------------------------------------------------------------------------------


def write(path: Path, content: bytes | str) -> None:
    """Write a file in one piece: a reader sees the old one or the new one, never half of one."""
    data = content.encode() if isinstance(content, str) else content
    produce(path, lambda partial: partial.write_bytes(data))


def produce(path: Path, make: Callable[[Path], object]) -> None:
    """Have `make` write a file of this machine, which then takes the place of `path` in one piece."""
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="adiabatic-ray-") as scratch:
            partial = Path(scratch) / path.name
            make(partial)
            _patiently(lambda: path.fs.put_file(str(partial), path.path))  # type: ignore[attr-defined]
        return

    def replace() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        make(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    _patiently(replace)


def read(path: Path) -> bytes | None:
    """What a file holds, or `None` where there is none."""
    try:
        return _patiently(path.read_bytes)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def exists(path: Path) -> bool:
    """Whether a file or a folder is there."""
    return _patiently(path.exists)


def found(place: Path, pattern: str) -> list[Path]:
    """The files under a folder that a pattern names, in their order."""
    if not is_remote(place):
        return _patiently(lambda: sorted(place.glob(pattern)))
    # fsspec's `glob` takes a listing that fails for an empty one, and asks once a folder; `find` does neither.
    root, depth = place.path.rstrip("/"), len(PurePosixPath(pattern).parts)  # type: ignore[attr-defined]
    files = _patiently(lambda: place.fs.find(root))  # type: ignore[attr-defined]
    names = [PurePosixPath(file.removeprefix(root).lstrip("/")) for file in files]
    return sorted(place / str(name) for name in names if len(name.parts) == depth and name.match(pattern))


@contextlib.contextmanager
def local(path: Path) -> Iterator[Path]:
    """A file or folder as one of this machine, under its own name: itself, or a copy that lasts as long as this."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="adiabatic-ray-") as scratch:
        copy = Path(scratch) / path.name
        _patiently(lambda: _download(path, copy))
        yield copy


@contextlib.contextmanager
def building(target: Path, last: str = "") -> Iterator[Path]:
    """A folder of this machine to write into; when the block ends, it takes the place of `target`.

    On a disk it does so in one piece. In an object store its files arrive one by one, `last` after all others, so
    whoever finds that one finds a whole folder.
    """
    if is_remote(target):
        with tempfile.TemporaryDirectory(prefix="adiabatic-ray-") as scratch:
            partial = Path(scratch) / target.name
            partial.mkdir()
            yield partial
            _patiently(lambda: _upload(partial, target, last))
        return
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            target.rename(old)  # what was there is deleted only when the new one is there
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def drop(path: Path) -> None:
    """Delete a file, where there is one."""
    with contextlib.suppress(FileNotFoundError):
        _patiently(path.unlink)


def remove(path: Path) -> None:
    """Delete a folder with all that it holds, where there is one."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif _patiently(path.exists):
        _patiently(lambda: path.fs.rm(path.path, recursive=True))  # type: ignore[attr-defined]


def _download(path: Path, copy: Path) -> None:
    remote, root = path.fs, path.path  # type: ignore[attr-defined]
    for file in remote.find(root) if remote.isdir(root) else [root]:
        target = copy / file.removeprefix(root).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        remote.get_file(file, str(target))


def _upload(partial: Path, target: Path, last: str) -> None:
    remove(target)
    files = sorted(path.relative_to(partial) for path in partial.rglob("*") if path.is_file())
    for file in sorted(files, key=lambda file: file == Path(last)):
        target.fs.put_file(str(partial / file), (target / file.as_posix()).path)  # type: ignore[attr-defined]


# ---- a node's own copies -------------------------------------------------------------------------------------------


def own_folder() -> Path:
    """The folder of this user and machine for what can be had again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adiabatic-ray"


def fetched(place: Path) -> Path:
    """This node's copy of a folder that never changes under its name, brought once for all its processes.

    A folder on a disk is its own copy.
    """
    if not is_remote(place):
        return place
    copy = _copy_of(place)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(copy.with_suffix(".lock")):
        if not copy.is_dir():
            partial = copy.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _patiently(lambda: _download(place, partial))
            partial.rename(copy)
    return copy


def forget(place: Path) -> None:
    """Delete a folder, and this node's copy of it."""
    remove(place)
    if is_remote(place):
        shutil.rmtree(_copy_of(place), ignore_errors=True)


def _copy_of(place: Path) -> Path:
    return own_folder() / "fetched" / hashlib.sha256(str(place).encode()).hexdigest()[:32]


# ---- one holder at a time ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(path: Path, *, wait: bool, lost: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold what a file stands for. Raises Held where another process does and `wait` is not set.

    On a disk it is the system's lock, which ends with the process. In an object store it is a lease: the holder renews
    it, and who finds one that is not renewed for `LEASE` seconds takes it over. The holder who could not renew it that
    long then finds another's, and `lost` is called, on a thread.
    """
    if is_remote(path):
        with _leased(path, wait, lost):
            yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(path)
    try:
        held.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise Held from None
    try:
        yield
    finally:
        held.release()


def held(path: Path) -> bool:
    """Whether some process holds the lock now."""
    if not is_remote(path):
        try:
            with lock(path, wait=False):
                return False
        except Held:
            return True
    seen, began = read(path), time.monotonic()
    while seen is not None and time.monotonic() - began < LEASE / 2:
        time.sleep(LEASE / 30)
        if read(path) not in (seen, None):
            return True
    return False


@contextlib.contextmanager
def _leased(path: Path, wait: bool, lost: Callable[[], object]) -> Iterator[None]:
    own, released = uuid.uuid4().hex, threading.Event()

    def ours() -> bool:
        return (read(path) or b"").startswith(own.encode())

    seen, since = read(path), time.monotonic()
    while seen is not None and time.monotonic() - since < LEASE:
        time.sleep(LEASE / 15)
        now = read(path)
        if now != seen:
            if now is not None and not wait:
                raise Held
            seen, since = now, time.monotonic()
    write(path, f"{own} 0")
    time.sleep(LEASE / 15)  # who came at the same moment and wrote later is seen now
    if not ours():
        if not wait:
            raise Held
        with _leased(path, wait, lost):
            yield
        return

    def renew() -> None:
        renewals = 0
        while not released.wait(LEASE / 3):
            renewals += 1
            with contextlib.suppress(errors.StorageError):  # whoever uses the storage hears of it
                if not ours():
                    lost()
                    return
                write(path, f"{own} {renewals}")

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        if ours():
            drop(path)


# ---- patience ------------------------------------------------------------------------------------------------------


def _patiently(do: Callable[[], Result]) -> Result:
    """The result of `do`, tried again with growing pauses while the storage is away.

    Raises:
        StorageError: it stayed away for `PATIENCE` seconds.
        OSError: what waiting does not change.
    """
    began, pause = time.monotonic(), 1.0
    while True:
        try:
            return do()
        except _FINAL:
            raise
        except Exception as error:
            if time.monotonic() - began > PATIENCE:
                raise errors.StorageError(
                    f"the storage did not answer for {PATIENCE:.0f} s ({errors.summary(error)}). What was stored is "
                    "kept; run the same command again when it is back."
                ) from error
            print(
                f"the storage does not answer ({errors.summary(error)}); trying again in {pause:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(pause)
        pause = min(30.0, 2 * pause)
