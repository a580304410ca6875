"""The winner's encoder in a real model registry, with the alias `champion` on a confirmed one only."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pytest

from adiabatic_ray.tracking.registry import ModelRegistry
from adiabatic_ray.trials.record import TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests import tracked
from tests.records import checked
from tests.tracking import mirrored
from tests.tracking.mirrored import open_runs, points

NAME = "s-query-encoder"


def winner(number: int, constraint: float | None = None) -> TrialRecord:
    """A feasible trial, confirmed with this constraint."""
    tests = () if constraint is None else checked({"constraint": constraint, "gain": 1.0})
    return TrialRecord(number, {}, "complete", "", 100.0, 110.0, points(1), worst="neutral/de/en", confirmations=tests)


@pytest.fixture
def registry(store: TrialStore) -> ModelRegistry:
    """The registry of the sweep, whose runs are there."""
    runs = open_runs(store)
    runs.sync()
    return ModelRegistry(runs)


@pytest.fixture
def client(store: TrialStore) -> mlflow.MlflowClient:
    uri = tracked.default_uri(store.sweep)
    return mlflow.MlflowClient(uri, uri)


def test_the_model_is_registered_once_and_loads(
    registry: ModelRegistry, client: mlflow.MlflowClient, store: TrialStore, pocket: Path
) -> None:
    assert registry.name == NAME
    registry.log_model(pocket / "encoder", winner(1))
    registry.log_model(pocket / "encoder", winner(1))  # logged already
    assert "MLFLOW_TRACKING_URI" not in os.environ  # later sweeps of this process are tracked in their own stores
    runs = tracked.runs(store.sweep)
    parent = runs["parent"].info
    (logged,) = client.search_logged_models([parent.experiment_id])
    mlflow.set_tracking_uri(tracked.default_uri(store.sweep))
    loaded = mlflow.sentence_transformers.load_model(logged.model_uri)
    assert loaded.encode("who reads a book?").shape == (96,)
    signature = mlflow.models.get_model_info(logged.model_uri).signature
    assert signature.outputs.inputs[0].shape == (-1, 96)
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    assert version.run_id == parent.run_id
    assert version.tags["sweep.trial"] == "1"
    assert version.tags["sweep.run"] == runs["1"].info.run_id
    assert (version.tags["sweep.id"], version.tags["sweep.folder"]) == (store.id, str(store.folder.path))
    assert (version.tags["scale"], version.tags["confirmed"]) == ("1", "no")
    assert client.get_registered_model(NAME).aliases == {}  # nobody confirmed it


def test_what_names_the_winner_goes_with_it(registry: ModelRegistry, store: TrialStore) -> None:
    registry.runs.log_summary(winner(1))
    assert tracked.runs(store.sweep)["parent"].data.tags["best.trial"] == "1"
    registry.drop_champion()
    assert not [key for key in tracked.runs(store.sweep)["parent"].data.tags if key.startswith("best.")]


def test_the_champion_is_confirmed_or_there_is_none(
    registry: ModelRegistry, client: mlflow.MlflowClient, store: TrialStore, pocket: Path
) -> None:
    uri = tracked.default_uri(store.sweep)
    registry.drop_champion()  # before anything was registered: nothing to do

    def champion() -> str | None:
        version = client.get_registered_model(NAME).aliases.get("champion")
        return None if version is None else str(client.get_model_version(NAME, str(version)).tags["sweep.trial"])

    registry.log_model(pocket / "encoder", winner(1, -0.5))
    assert champion() == "1"
    registry.log_model(pocket / "encoder", winner(2, -0.1))
    assert champion() == "2"
    assert champion_answers(uri)
    registry.log_model(pocket / "encoder", winner(3))  # a better one that nobody confirmed
    assert champion() is None
    registry.log_model(pocket / "encoder", winner(2, -0.1))
    assert champion() == "2"
    # A sweep of the same name in another storage folder shares the registered model.
    stranger = open_runs(mirrored.create(store.folder.path / "elsewhere"), uri)
    stranger.sync()
    ModelRegistry(stranger).drop_champion()
    assert champion() == "2"
    registry.drop_champion()
    assert champion() is None


def champion_answers(uri: str) -> bool:
    """Whether the champion is served as a plain MLflow model."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    served = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    return bool(len(served.predict(["who reads a book?"])) == 1)
