"""The address of MLflow's store, and how to show it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import mlflow

from adiabatic_ray import config
from adiabatic_ray.trials.layout import StorageFolder


def of(settings: config.Mlflow, folder: StorageFolder) -> str:
    """The store that a sweep's settings name, or else the default one."""
    return settings.uri or default_uri(folder)


def default_uri(folder: StorageFolder) -> str:
    """`MLFLOW_TRACKING_URI`, else a SQLite store in the storage folder, shared by all sweeps there."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.mlflow_database.resolve()}"


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
