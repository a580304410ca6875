"""Connects to a Ray cluster, and gets results from its tasks."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import ray

from adiabatic_ray import errors
from adiabatic_ray.sweep.cluster import ray_private

for _name in ("ray", "ray.tune", "ray.train"):  # after the import of Ray, which sets their levels
    logging.getLogger(_name).setLevel(logging.CRITICAL)

CONNECT_TIMEOUT = 10  # seconds
# Bytes that a socket's path may have on every system, and those of its part below the folder for temporary files:
# /ray/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store
LONGEST_PATH, LONGEST_SOCKET = 103, 70


@contextlib.contextmanager
def connected() -> Iterator[bool]:
    """Connect to the cluster that RAY_ADDRESS names, or else to a local one that ends with the block.

    Yields whether the cluster is such a local one. A process that is connected already stays as it is.

    Raises:
        ResourceError: RAY_ADDRESS names no cluster that lets this process in.
    """
    if ray.is_initialized():
        yield False
        return
    ray_private.keep_quiet()
    options = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    address = os.environ.get("RAY_ADDRESS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address:
        try:
            _knock(address)
            ray.init(**options)
        except OSError as error:
            raise errors.ResourceError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from None
        except (ValueError, RuntimeError, ray.exceptions.RayError) as error:  # a malformed address, another version
            said = " ".join(str(error).split())
            raise errors.ResourceError(f"cannot connect to the Ray cluster at RAY_ADDRESS={address}: {said}") from None
    else:
        ray.init(address="local", include_dashboard=False, _temp_dir=_short_folder(), **options)
    if threading.current_thread() is threading.main_thread():  # no other thread can set handlers
        signal.signal(signal.SIGTERM, on_sigterm)  # `ray.init` sets its own, which exits at once
    try:
        yield not address
    finally:
        ray.shutdown()


def _short_folder() -> str | None:
    """A folder for a local cluster's sockets, where that for temporary files has too long a name; else `None`.

    Raises:
        ResourceError: there is no other folder.
    """
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) + LONGEST_SOCKET <= LONGEST_PATH:
        return None
    if not os.access("/tmp", os.W_OK):  # noqa: S108 - the folder below is this user's own
        raise errors.ResourceError(
            f"the folder for temporary files, {usual}, has too long a name for Ray's sockets "
            f"({LONGEST_PATH - LONGEST_SOCKET} bytes at most), and /tmp cannot be written. Set TMPDIR to a shorter one."
        )
    return f"/tmp/ray-{os.getuid()}"  # noqa: S108


def _knock(address: str) -> None:
    """Fail if the address takes no connection, where Ray would try for long and write into the terminal.

    Raises:
        OSError: nothing listens there.
        ResourceError: what listens there refuses this process.
    """
    host, _, port = address.rpartition("/")[-1].rpartition(":")  # `host:port` or `ray://host:port`
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
    refusal = "" if "://" in address else ray_private.refusal(address)
    if "InvalidAuthToken" in refusal:
        raise errors.ResourceError(
            f"the Ray cluster at RAY_ADDRESS={address} refuses the token of this process, or asks for one. Set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's."
        )
    if refusal:
        raise errors.ResourceError(f"RAY_ADDRESS={address} is not the address of a Ray cluster's head: {refusal}")


def get(reference: Any) -> Any:
    """The result of a Ray task. Our own errors are raised as they were raised in the task.

    Raises:
        SweepError: the task's process died.
    """
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
