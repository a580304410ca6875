"""From a run in MLflow back to the sweep's folder and the trial."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from adiabatic_ray import config, errors, storage
from adiabatic_ray.report.ledger import Ledger, exists
from adiabatic_ray.report.tracking import default_uri, without_password


def find(run_id: str) -> tuple[Ledger, int | None]:
    """The sweep that an MLflow run belongs to, and the trial's number where it is a trial's run.

    It is looked up where sweeps track by default: `MLFLOW_TRACKING_URI`, else the store in the storage folder.

    Raises:
        SweepError: no store, no such run, or one whose sweep's folder is not known or not here.
    """
    uri = default_uri(storage.folder(config.default_storage()))
    elsewhere = "Set MLFLOW_TRACKING_URI to the store that has it, or give the sweep's folder instead."
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise errors.SweepError(f"{run_id} looks like an MLflow run, but there is no store at {uri}. {elsewhere}")
    try:
        tags = mlflow.MlflowClient(uri).get_run(run_id).data.tags
    except MlflowException as error:
        raise errors.SweepError(
            without_password(f"{uri} gives no run {run_id} ({errors.summary(error)}). {elsewhere}")
        ) from None
    if "sweep.folder" not in tags:
        raise errors.SweepError(
            f"run {run_id} says no sweep's folder (it has no tag `sweep.folder`). Give the sweep's folder instead."
        )
    folder = storage.folder(tags["sweep.folder"])
    if not exists(folder):
        raise errors.SweepError(
            f"run {run_id} is of the sweep in {folder}, which is not on this machine (or was deleted). Export on the "
            "machine that has it, or give the folder under which it is found here."
        )
    ledger = Ledger(folder)
    if ledger.id != tags.get("sweep.id"):
        raise errors.SweepError(
            f"run {run_id} is of the sweep {tags.get('sweep.id')}, but {folder} holds another one now, {ledger.id}."
        )
    number = tags.get("sweep.trial")
    return ledger, None if number is None else int(number)
