"""Makes a sweep safe to run: its results are stored where they last, only one process runs it, and signals end it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from adiabatic_ray import config, errors, storage
from adiabatic_ray.trials.layout import SweepFolder

IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets this variable for what it runs as a job


def require_lasting(sweep: config.Sweep) -> None:
    """Check that a sweep's results, and MLflow's copy of them, are stored where they last.

    Raises:
        SweepError: the results would go to a Ray job's working directory, which is deleted with the job.
        ConfigError: the results go to an object store, which can hold no database for MLflow, and no server is named.
    """
    where = sweep.storage
    if storage.is_remote(where) and not (sweep.mlflow.uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise errors.ConfigError(
            f"mlflow.uri: {where} can hold no database for MLflow. Give `mlflow.uri`, or set MLFLOW_TRACKING_URI, to "
            "that of a server."
        )
    if IN_A_JOB in os.environ and not storage.is_remote(where) and not Path(where).is_absolute():
        raise errors.SweepError(
            f"the results would go to {Path(where).resolve()}, in this job's own copy of the working directory, and "
            "be lost with it. Set ADIABATIC_STORAGE on the cluster's nodes, or `storage` in the sweep file, to a "
            "folder that all nodes share."
        )


@contextlib.contextmanager
def sole_owner(folder: SweepFolder) -> Iterator[None]:
    """Lock a sweep's folder until the block ends.

    Raises:
        SweepError: another process holds the lock.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(storage.lock(folder.lock, wait=False, lost=_overtaken))
        except storage.LockHeld:
            raise errors.SweepError(f"{folder.path} is in use by another process that runs this sweep.") from None
        yield


def _overtaken() -> None:
    """End this process's sweep. It could not reach the storage for so long that another process took its lock over."""
    print("another process goes on with the sweep: this one could not reach the storage", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGINT)


def owned(folder: SweepFolder) -> bool:
    """Whether some process holds the lock of a sweep's folder now."""
    return storage.held(folder.lock)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Handle signals until the block ends. Yields an event that asks the sweep to end.

    The first SIGINT or SIGTERM sets the event. The second raises KeyboardInterrupt, which ends the sweep at once.
    Signals reach the main thread only, so they do not interrupt a sweep on another thread.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        print("\nending; once more to end at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with storage.ended_by(interrupted):
            yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
