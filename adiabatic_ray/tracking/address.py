"""The address of MLflow's store, and how to show it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import filelock
import mlflow

from adiabatic_ray import config, errors
from adiabatic_ray.trials.layout import StorageFolder

CONNECT_SECONDS = 10
MAKING_SECONDS = 60  # that another process may take to make the tables of a SQLite file


def of(settings: config.Mlflow, folder: StorageFolder) -> str:
    """The store that a sweep's settings name, or else the default one."""
    return settings.uri or default_uri(folder)


def default_uri(folder: StorageFolder) -> str:
    """`MLFLOW_TRACKING_URI`, else a SQLite store in the storage folder, shared by all sweeps there."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.mlflow_database.resolve()}"


def require_usable(uri: str, experiment: str) -> str:
    """Check that a sweep can be tracked at `uri`. Return why its server does not answer, or an empty text.

    A server that is away may come back, and a later run delivers what was not delivered. What MLflow refuses, it will
    refuse again.

    Raises:
        ConfigError: MLflow refuses the store, or the experiment was deleted.
    """
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.hostname:
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            return errors.summary(error)
    elif parts.scheme == "sqlite" and not Path(uri.removeprefix("sqlite:///")).is_file():
        return ""  # it is made when the first run is
    elif parts.scheme in ("postgresql", "mysql", "mssql"):
        return ""  # MLflow waits minutes for a database that is down
    try:
        found = client(uri).get_experiment_by_name(experiment)
    except Exception as error:  # noqa: BLE001 - MLflow's stores raise errors of every library they are built on
        if parts.scheme in ("http", "https"):
            return without_password(errors.summary(error))
        raise errors.ConfigError(
            f"MLflow does not take {without_password(uri)} as a store: {errors.summary(error)} Give `mlflow.uri`, or "
            "set MLFLOW_TRACKING_URI, to a server (http://...) or a database (sqlite:///...)."
        ) from None
    if found is not None and found.lifecycle_stage == "deleted":
        raise errors.ConfigError(
            f"mlflow.experiment: `{experiment}` was deleted at {without_password(uri)}. Restore it "
            f"(`mlflow experiments restore -x {found.experiment_id}`), or give another name."
        )
    return ""


def client(uri: str) -> mlflow.MlflowClient:
    """MLflow's client of a store, which makes the tables of a SQLite file that has none.

    Sweeps that start at once spoil that for each other, so the processes of a machine do it one after the other.
    """
    alone: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if uri.startswith("sqlite:"):
        digest = hashlib.sha256(uri.encode()).hexdigest()[:16]
        lock = Path(tempfile.gettempdir()) / f"adiabatic-ray-{os.getuid()}-{digest}.lock"
        alone = filelock.FileLock(lock, timeout=MAKING_SECONDS)
    with alone:
        return mlflow.MlflowClient(uri, uri)  # for tracking and for the registry


def without_password(text: str) -> str:
    """Hide the password in a tracking URI, or in a text that quotes one: MLflow's errors quote it in full."""
    return re.sub(r"//([^/:@\s]*):[^/\s]*@", r"//\1:***@", text)


@contextlib.contextmanager
def at(uri: str) -> Iterator[None]:
    """Make MLflow's own functions use the store at `uri` until the block ends.

    MLflow also sets environment variables, which decide where later sweeps are tracked. They are restored.
    """
    before = [os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")]
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
        if before[1] is None:
            os.environ.pop("MLFLOW_REGISTRY_URI", None)  # MLflow removes only the other variable
