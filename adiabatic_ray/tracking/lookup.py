"""Finds the sweep and the trial of a run in MLflow."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from adiabatic_ray import config, errors, storage
from adiabatic_ray.tracking import address
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.store import TrialStore, exists


def find(run_id: str) -> tuple[TrialStore, int | None]:
    """The sweep that an MLflow run belongs to, and the trial's number if the run is a trial's.

    The run is looked up where sweeps are tracked by default: at `MLFLOW_TRACKING_URI`, or else in the store in the
    storage folder.

    Raises:
        SweepError: there is no store or no such run, or the folder of its sweep is unknown or not on this machine.
    """
    uri = address.default_uri(StorageFolder.at(config.default_storage()))
    elsewhere = "Set MLFLOW_TRACKING_URI to the store that has it, or give the sweep's folder instead."
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise errors.SweepError(f"{run_id} looks like an MLflow run, but there is no store at {uri}. {elsewhere}")
    try:
        tags = mlflow.MlflowClient(uri).get_run(run_id).data.tags
    except MlflowException as error:
        raise errors.SweepError(
            address.without_password(f"{uri} gives no run {run_id} ({errors.summary(error)}). {elsewhere}")
        ) from None
    if "sweep.folder" not in tags:
        raise errors.SweepError(
            f"run {run_id} says no sweep's folder (it has no tag `sweep.folder`). Give the sweep's folder instead."
        )
    folder = storage.folder(tags["sweep.folder"])
    if not exists(folder):
        raise errors.SweepError(
            f"run {run_id} is of the sweep in {folder}, which is not on this machine (or was deleted). Export on the "
            "machine that has it, or give the path of the folder here."
        )
    store = TrialStore(folder)
    if store.id != tags.get("sweep.id"):
        raise errors.SweepError(
            f"run {run_id} is of the sweep {tags.get('sweep.id')}, but {folder} holds another one now, {store.id}."
        )
    number = tags.get("sweep.trial")
    return store, None if number is None else int(number)
