"""A sweep to be mirrored into MLflow: the untouched encoder and one trial that runs."""

from __future__ import annotations

import math
from pathlib import Path

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag

from adiabatic_ray import config
from adiabatic_ray.tracking.runs import MlflowRuns
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import Evaluation, TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests import tracked
from tests.sweeps import minimal

DATASET = DatasetInput(
    Dataset("xnli", "abc", "hugging_face", '{"path": "org/xnli"}', profile='{"rows": 3}'),
    [InputTag("mlflow.data.context", "selection")],
)


def points(count: int) -> tuple[Evaluation, ...]:
    """Evaluation points whose gain is their number."""
    return tuple(
        Evaluation(4 * i, 100.0 + i, {"gain": float(i), "constraint": -0.5, "bad": math.nan})
        for i in range(1, count + 1)
    )


def create(storage: Path) -> TrialStore:
    """The sweep's store in a storage folder."""
    sweep = minimal(storage=str(storage), seed=3, mlflow=config.Mlflow(experiment="tests"))
    store = TrialStore.create(StorageFolder(storage).sweep(sweep.name).path, sweep)
    untouched = (Evaluation(0, 90.0, {"gain": 0.0, "constraint": -1.0}),)
    store.put(TrialRecord(0, {}, "complete", "", 90.0, 90.0, untouched))
    store.put(TrialRecord(1, {"learning_rate": 1e-7, "freeze": "embeddings"}, "running", "", 100.0, None, points(1)))
    return store


def open_runs(store: TrialStore, uri: str = "") -> MlflowRuns:
    """The sweep's runs as a process of the sweep opens them."""
    return MlflowRuns(store, uri or tracked.default_uri(store.sweep), store.sweep.mlflow.experiment, [DATASET])


def history(store: TrialStore, number: int, metric: str = "gain", uri: str = "") -> list[tuple[int, float]]:
    """The steps and values of a trial's metric."""
    run_id = tracked.runs(store.sweep, uri)[str(number)].info.run_id
    logged = mlflow.MlflowClient(uri or tracked.default_uri(store.sweep)).get_metric_history(run_id, metric)
    return [(metric.step, metric.value) for metric in logged]
