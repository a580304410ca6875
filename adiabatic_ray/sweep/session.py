"""Around a sweep: its folder is held by one process, signals end it cleanly, and Ray is there."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from adiabatic_ray import config, errors, storage

for _name in ("ray", "ray.tune", "ray.train"):  # here, since importing Ray sets their levels
    logging.getLogger(_name).setLevel(logging.CRITICAL)

CONNECT_TIMEOUT = 10  # seconds
LOCK = ".lock"  # in a sweep's folder
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets this variable for what it runs as a job


def require_lasting(sweep: config.Sweep) -> None:
    """Check that the results of a sweep, and what MLflow keeps of them, have a place to stay.

    Raises:
        SweepError: they would go into a Ray job's working directory, which ends with the job.
        ConfigError: they go to an object store, which can hold no database for MLflow, and no server is named.
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
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder. Raises SweepError where another process does."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(storage.lock(folder / LOCK, wait=False, lost=_overtaken))
        except storage.Held:
            raise errors.SweepError(f"{folder} is in use by another process that runs this sweep.") from None
        yield


def _overtaken() -> None:
    """End this process's sweep: another holds its folder, since this one was out of the storage's reach for long."""
    print("another process goes on with this sweep, which could not reach its storage", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGINT)


def owned(folder: Path) -> bool:
    """Whether some process holds a sweep's folder now."""
    return storage.held(folder / LOCK)


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM sets the event, which asks the sweep to end; the second ends it at once."""
    interrupted = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        print("\nending; once more to end at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def connected() -> Iterator[bool]:
    """A connection to the cluster that RAY_ADDRESS names, else to one on this machine that ends with the sweep.

    Yields whether it is of the second kind: our own.
    """
    if ray.is_initialized():
        yield False
        return
    options = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    address = os.environ.get("RAY_ADDRESS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address:
        try:
            _knock(address)
            ray.init(**options)
        except OSError as error:
            raise errors.ResourceError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from None
    else:
        ray.init(address="local", include_dashboard=False, **options)
    signal.signal(signal.SIGTERM, on_sigterm)  # `ray.init` puts its own in place, which exits at once
    try:
        yield not address
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Fail at once where nobody listens; Ray would try for ten minutes."""
    host, _, port = address.rpartition("/")[-1].rpartition(":")  # `host:port` or `ray://host:port`
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()


def get(reference: Any) -> Any:
    """The result of a task, with our own errors as they were raised there."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, errors.AdiabaticRayError):
            raise error.cause from None
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise errors.SweepError(
            "the process that embeds and exports died (killed, out of memory, or its node was lost); "
            "run the same command to go on."
        ) from error
