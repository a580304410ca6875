"""What MLflow holds of a sweep."""

from __future__ import annotations

import mlflow
from mlflow.entities import Run

from adiabatic_ray import config
from adiabatic_ray.tracking import address
from adiabatic_ray.trials.layout import StorageFolder


def default_uri(sweep: config.Sweep) -> str:
    """The address of the store that a sweep is tracked in where none is given."""
    return address.default_uri(StorageFolder.at(sweep.storage))


def runs(sweep: config.Sweep, uri: str = "") -> dict[str, Run]:
    """All runs of the sweep's experiment, by the trials' numbers; `parent` is the sweep's own."""
    client = mlflow.MlflowClient(uri or default_uri(sweep))
    experiment = client.get_experiment_by_name(sweep.mlflow.experiment)
    listed = client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []
    by_number = {run.data.tags.get("sweep.trial", "parent"): run for run in listed}
    assert len(by_number) == len(listed), "two runs for one trial"
    return by_number


def statuses(sweep: config.Sweep, uri: str = "") -> list[str]:
    """The statuses of all runs, sorted."""
    return sorted(run.info.status for run in runs(sweep, uri).values())
