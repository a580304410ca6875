"""From a run in a real MLflow store back to the sweep's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest

from adiabatic_ray import errors
from adiabatic_ray.tracking import lookup
from adiabatic_ray.trials.store import TrialStore
from tests import mlflow_server, tracked
from tests.tracking.mirrored import create, open_runs


@pytest.fixture
def ids(store: TrialStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The ids of the sweep's runs, looked up where a sweep tracks by default."""
    monkeypatch.setenv("ADIABATIC_STORAGE", str(tmp_path))
    open_runs(store).sync()
    return {key: run.info.run_id for key, run in tracked.runs(store.sweep).items()}


def test_runs_lead_to_their_sweep_and_trial(store: TrialStore, ids: dict[str, str]) -> None:
    for key, number in (("parent", None), ("0", 0), ("1", 1)):
        opened, trial = lookup.find(ids[key])
        assert (opened.id, opened.folder, trial) == (store.id, store.folder, number)
        assert opened.records.keys() == store.records.keys()


def test_a_run_may_be_in_a_store_that_the_environment_names(
    store: TrialStore, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'elsewhere.db')}"
    open_runs(store, uri).sync()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    opened, trial = lookup.find(tracked.runs(store.sweep, uri)["1"].info.run_id)
    assert (opened.id, trial) == (store.id, 1)


def test_no_store_and_looking_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.SweepError, match=rf"there is no store at sqlite:///{tmp_path}/runs/mlflow.db. Set MLFL"):
        lookup.find("a" * 32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ids")
def test_a_run_that_the_store_does_not_have() -> None:
    with pytest.raises(errors.SweepError, match=rf"gives no run {'0' * 32} \(.*Set MLFLOW_TRACKING_URI to the store"):
        lookup.find("0" * 32)


def test_a_server_that_is_down_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    port = mlflow_server.free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:a-secret@127.0.0.1:{port}")
    with pytest.raises(errors.SweepError, match=rf"http://somebody:\*\*\*@127.0.0.1:{port} gives no run") as raised:
        lookup.find("0" * 32)
    assert "a-secret" not in str(raised.value)


def test_a_run_of_something_else(store: TrialStore, ids: dict[str, str]) -> None:
    mlflow.MlflowClient(tracked.default_uri(store.sweep)).delete_tag(ids["1"], "sweep.folder")
    with pytest.raises(errors.SweepError, match=r"says no sweep's folder \(it has no tag `sweep.folder`"):
        lookup.find(ids["1"])


def test_a_sweep_that_is_gone_or_another_one_now(store: TrialStore, ids: dict[str, str], tmp_path: Path) -> None:
    shutil.rmtree(store.folder.path)
    with pytest.raises(errors.SweepError, match=rf"is of the sweep in {store.folder.path}, which is not on this mach"):
        lookup.find(ids["1"])
    other = create(tmp_path)
    with pytest.raises(
        errors.SweepError, match=f"is of the sweep {store.id}, but .* holds another one now, {other.id}"
    ):
        lookup.find(ids["parent"])
