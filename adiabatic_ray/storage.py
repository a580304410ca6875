"""The storage of results: a folder that all nodes share, or an object store such as `s3://bucket/sweeps`.

Callers use both as a `Path`. The URL of an object store becomes a `UPath`, which needs the fsspec package for its
protocol. This module hides where the two differ: atomic writes, locks, and what needs a file on this machine.

Every function waits for a storage that does not answer or is full. If it stays so, or the user ends the sweep
(`ended_by`), the function raises `StorageError`. No trial fails because of it: what is stored stays there, and the
sweep resumes from it.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
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

PATIENCE = 600.0  # seconds to wait for a storage that does not answer
FULL = tuple(os.strerror(reason) for reason in (errno.ENOSPC, errno.EDQUOT))
LONGEST_PAUSE = 10.0  # seconds between two attempts
LEASE = 30.0  # seconds without a renewal after which another process may take over a lease
# Protocols whose stores create a file only where none is, and whose fsspec packages (s3fs, gcsfs) can ask for that.
_EXCLUSIVE_CREATION = ("s3", "s3a", "gs", "gcs")
# Errors that no waiting resolves: the file is missing or not accessible, or the program has a bug.
_FINAL = (
    *(FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ImportError, TypeError, ValueError, LookupError, AttributeError, AssertionError, MemoryError),
)

Result = TypeVar("Result")


_patience: contextvars.ContextVar[float | None] = contextvars.ContextVar("patience", default=None)
_ended = threading.Event()  # set when the user ends the sweep that this process runs


class LockHeld(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Wait only so long for the storage until the block ends, instead of `PATIENCE` seconds."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


@contextlib.contextmanager
def ended_by(event: threading.Event) -> Iterator[None]:
    """Stop waiting for the storage, on all threads, when the event is set; until the block ends."""
    global _ended
    before, _ended = _ended, event
    try:
        yield
    finally:
        _ended = before


def folder(where: str | Path) -> Path:
    """Return the folder that a path or a URL names: an absolute `Path`, or a `UPath` for a URL.

    Raises:
        ConfigError: no installed package supports the URL's protocol.
    """
    text = str(where)
    if not is_remote(text):
        return Path(text.removeprefix("file://")).expanduser().resolve()
    from upath import UPath  # a run that uses only disks does not need the package

    try:
        # Other processes write too, so fsspec must not answer from an earlier listing.
        place = UPath(text, use_listings_cache=False)
        place.fs  # noqa: B018 - creates the file system, which fails if its package is missing
    except (ImportError, ValueError) as error:
        raise errors.ConfigError(
            f"storage: {text} cannot be used: {error}. Install the package for its protocol (`pip install s3fs` for "
            "s3://, `gcsfs` for gs://) here and on all nodes, or name a folder that all nodes share."
        ) from None
    return cast(Path, place)


def is_remote(where: str | Path) -> bool:
    """Return whether a path is the URL of an object store, not a path on a disk."""
    text = str(where)
    return "://" in text and not text.startswith("file://")


def free(place: Path) -> str:
    """Say how much is free on the disk of a folder; nothing of an object store."""
    if is_remote(place):
        return ""
    with contextlib.suppress(OSError):
        return f"; {shutil.disk_usage(place).free / 1e6:.1f} MB free"
    return ""


def write(path: Path, content: bytes | str) -> None:
    """Write a file atomically: a reader sees the old content or the new one, never a part. Text is stored as UTF-8.

    Raises:
        StorageError: the storage stayed away.
    """
    data = content.encode() if isinstance(content, str) else content
    produce(path, lambda partial: partial.write_bytes(data))


def produce(path: Path, make: Callable[[Path], object]) -> None:
    """Let `make` write a file on this machine, then replace `path` with it atomically.

    Raises:
        StorageError: the storage stayed away.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="adiabatic-ray-") as scratch:
            partial = Path(scratch) / path.name
            make(partial)
            _with_retries(lambda: path.fs.put_file(str(partial), path.path))  # type: ignore[attr-defined]
        return

    def replace() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        make(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    _with_retries(replace)


def read(path: Path) -> bytes | None:
    """Return the content of a file, or `None` if the file does not exist.

    Raises:
        StorageError: the storage stayed away.
    """
    try:
        return _with_retries(path.read_bytes)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def exists(path: Path) -> bool:
    """Return whether a file or a folder exists."""
    return _with_retries(path.exists)


def found(place: Path, pattern: str) -> list[Path]:
    """Return the files in a folder that match a glob pattern, sorted. The pattern must not contain `**`."""
    if not is_remote(place):
        return _with_retries(lambda: sorted(place.glob(pattern)))
    # fsspec's `glob` reports no files when a listing fails, and sends a request per folder. `find` does neither.
    root, depth = place.path.rstrip("/"), len(PurePosixPath(pattern).parts)  # type: ignore[attr-defined]
    files = _with_retries(lambda: place.fs.find(root))  # type: ignore[attr-defined]
    names = [PurePosixPath(file.removeprefix(root).lstrip("/")) for file in files]
    return sorted(place / str(name) for name in names if len(name.parts) == depth and name.match(pattern))


@contextlib.contextmanager
def local(path: Path) -> Iterator[Path]:
    """Yield a file or folder on this machine: `path` itself, or a copy of the same name that the block's end deletes.

    Raises:
        StorageError: the storage stayed away.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="adiabatic-ray-") as scratch:
        copy = Path(scratch) / path.name
        _with_retries(lambda: _download(path, copy))
        yield copy


@contextlib.contextmanager
def building(target: Path, last: str = "") -> Iterator[Path]:
    """Yield an empty folder on this machine; it replaces `target` when the block ends, unless the block raises.

    On a disk, the new folder appears whole. An object store receives it file by file, the file `last` after all others,
    so a reader who sees that file sees the whole folder.

    Raises:
        StorageError: the storage stayed away.
    """
    if is_remote(target):
        with tempfile.TemporaryDirectory(prefix="adiabatic-ray-") as scratch:
            partial = Path(scratch) / target.name
            partial.mkdir()
            yield partial
            _with_retries(lambda: _upload(partial, target, last))
        return
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            target.rename(old)  # the old folder is deleted only after the new one is in place
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        if any(reason in str(error) for reason in FULL):  # whichever library wrote
            raise errors.StorageError(
                f"{target} cannot be written ({errors.summary(error)}{free(target.parent)}). What was stored is kept; "
                "make room, and run the same command again."
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def drop(path: Path) -> None:
    """Delete a file, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        if is_remote(path):
            _with_retries(lambda: path.fs.rm_file(path.path))  # type: ignore[attr-defined]
        else:
            _with_retries(path.unlink)


def remove(path: Path) -> None:
    """Delete a folder and all that it contains, if it exists."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif _with_retries(path.exists):
        _with_retries(lambda: path.fs.rm(path.path, recursive=True))  # type: ignore[attr-defined]


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


def own_folder() -> Path:
    """Return this user's cache folder on this machine. Everything in it can be computed or downloaded again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adiabatic-ray"


def fetched(place: Path) -> Path:
    """Return this node's copy of a folder, which all its processes share. A folder on a disk is its own copy.

    The first call on a node downloads the folder. Later calls return that copy without a request to the storage, so
    the content of a folder must not change under its name.

    Raises:
        StorageError: the storage stayed away.
    """
    if not is_remote(place):
        return place
    copy = _copy_of(place)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(copy.with_suffix(".lock")):
        if not copy.is_dir():
            partial = copy.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _with_retries(lambda: _download(place, partial))
            partial.rename(copy)
    return copy


def forget(place: Path) -> None:
    """Delete a folder and this node's copy of it."""
    remove(place)
    if is_remote(place):
        shutil.rmtree(_copy_of(place), ignore_errors=True)


def _copy_of(place: Path) -> Path:
    return own_folder() / "fetched" / hashlib.sha256(str(place).encode()).hexdigest()[:32]


@contextlib.contextmanager
def lock(path: Path, *, wait: bool, lost: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock that a file stands for until the block ends.

    On a disk this is a file lock of the operating system, which ends with the process. In an object store it is a
    lease: a file that its holder renews. Another process may take it over after `LEASE` seconds without a renewal.

    Args:
        path: the lock's file.
        wait: wait until the lock is free, instead of raising `LockHeld`.
        lost: called, on another thread, when the holder of a lease sees that another process took it over.

    Raises:
        LockHeld: another process holds the lock, and `wait` is false.
        StorageError: the storage stayed away.
    """
    if is_remote(path):
        with _lease(path, wait, lost):
            yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file_lock = filelock.FileLock(path)
    try:
        file_lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise LockHeld from None
    try:
        yield
    finally:
        file_lock.release()


def held(path: Path) -> bool:
    """Return whether some process holds the lock now. For a lease, the answer takes up to `LEASE / 2` seconds."""
    if is_remote(path):
        seen = read(path)
        return seen is not None and _next_content(path, seen, LEASE / 2) not in (seen, None)
    try:
        with lock(path, wait=False):
            return False
    except LockHeld:
        return True


@contextlib.contextmanager
def _lease(path: Path, wait: bool, lost: Callable[[], object]) -> Iterator[None]:
    """Hold a lease: a file that contains its owner and the number of its renewals.

    Creation is atomic where the store allows it. Takeover, renewal and release are not: fsspec has no conditional
    overwrite or delete, so they look at the lease first and then send a request. If that request arrives later than
    the pause in `_create` ends, two processes may hold the lease until one fails to renew it and calls `lost`.
    """
    owner, released = uuid.uuid4().hex, threading.Event()
    while not _acquire(path, owner):
        if not wait:
            raise LockHeld
    renewal = threading.Thread(target=_renew, args=(path, owner, released, lost), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        released.set()
        renewal.join()
        if _owns(path, owner):
            drop(path)


def _acquire(path: Path, owner: str) -> bool:
    """Create a lease, or take over a stale one. Return whether `owner` holds it; if not, another process does."""
    seen = read(path)
    if seen is not None:
        now = _next_content(path, seen, LEASE)
        if now not in (seen, None):
            return False
        if now == seen:
            drop(path)
    return _create(path, owner)


def _create(path: Path, owner: str) -> bool:
    """Create a lease where none was seen, and return whether `owner` then holds it."""
    content = f"{owner} 0"
    if path.protocol in _EXCLUSIVE_CREATION:  # type: ignore[attr-defined]
        with contextlib.suppress(FileExistsError):  # may be ours: a retry after an answer that was lost
            _with_retries(lambda: path.fs.pipe_file(path.path, content.encode(), mode="create"))  # type: ignore[attr-defined]
    else:
        write(path, content)
    # Look again after a pause: a process that saw the same stale lease may delete ours, and a store without exclusive
    # creation keeps the lease that was written last.
    time.sleep(LEASE / 15)
    return _owns(path, owner)


def _renew(path: Path, owner: str, released: threading.Event, lost: Callable[[], object]) -> None:
    """Renew a lease until it is released, or until another process took it over."""
    renewals = 0
    while not released.wait(LEASE / 3):
        renewals += 1
        with contextlib.suppress(errors.StorageError):  # the lease's holder sees it when it uses the storage
            if not _owns(path, owner):
                lost()
                return
            write(path, f"{owner} {renewals}")


def _owns(path: Path, owner: str) -> bool:
    return (read(path) or b"").startswith(owner.encode())


def _next_content(path: Path, seen: bytes, timeout: float) -> bytes | None:
    """Return what a lease contains once that is no longer `seen`, or `seen` after `timeout` seconds without change."""
    began, now = time.monotonic(), cast("bytes | None", seen)
    while now == seen and time.monotonic() - began < timeout:
        time.sleep(timeout / 15)
        now = read(path)
    return now


def _with_retries(do: Callable[[], Result]) -> Result:
    """Return the result of `do`. While the storage does not answer, try again after growing pauses.

    Raises:
        StorageError: the storage stayed away for `PATIENCE` seconds, or until the sweep is ended.
        OSError: an error that no waiting resolves.
    """
    began, pause, chosen = time.monotonic(), 1.0, _patience.get()
    limit = PATIENCE if chosen is None else chosen
    while True:
        try:
            return do()
        except _FINAL:
            raise
        except Exception as error:
            waited = time.monotonic() - began
            if waited > limit or _ended.is_set():
                raise errors.StorageError(
                    f"the storage did not answer for {waited:.0f} s ({errors.summary(error)}). What was stored is "
                    "kept; run the same command again when it is back, or has room."
                ) from error
            print(
                f"the storage does not answer ({errors.summary(error)}); trying again in {pause:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        _ended.wait(pause)
        pause = min(LONGEST_PAUSE, 2 * pause)
