"""Where MLflow's store is, and addresses that show no password."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from adiabatic_ray import errors
from adiabatic_ray.tracking import address
from adiabatic_ray.trials.layout import StorageFolder
from tests import mlflow_server


def test_the_default_is_the_environments_or_a_database_in_the_storage_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert address.default_uri(StorageFolder(Path("runs"))) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert address.default_uri(StorageFolder(tmp_path)) == "http://mlflow:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert address.default_uri(StorageFolder(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000", "http://me:***@host:5000"),
        ("postgresql://me:sec:ret@host/db", "postgresql://me:***@host/db"),
        ("http://me:s@cret@host:5000/path", "http://me:***@host:5000/path"),
        ("no answer from http://me:secret@host:5000 (refused)", "no answer from http://me:***@host:5000 (refused)"),
        ("http://host:5000", "http://host:5000"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("http://me@host:5000", "http://me@host:5000"),
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert address.without_password(text) == shown


def raise_inside(uri: str) -> None:
    with address.at(uri):
        assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == (uri, uri)
        raise KeyError("an error inside")


@pytest.mark.parametrize("before", [None, "http://before:5000"])
def test_mlflows_functions_are_at_our_store_only_inside(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    for name in names:
        monkeypatch.delenv(name, raising=False)
        if before is not None:
            monkeypatch.setenv(name, before)
    outside = (mlflow.get_tracking_uri(), mlflow.get_registry_uri())
    with pytest.raises(KeyError, match="an error inside"):
        raise_inside(f"sqlite:///{tmp_path}/inside.db")
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == outside
    assert [os.environ.get(name) for name in names] == [before, before]


def test_a_store_that_mlflow_refuses_is_found_out_at_once(tmp_path: Path) -> None:
    with pytest.raises(
        errors.ConfigError, match=r"MLflow does not take file:.* as a store: .* maintenance mode .* Give"
    ):
        address.require_usable(f"file:{tmp_path}", "e")
    with pytest.raises(errors.ConfigError, match=r"MLflow does not take ftp://somebody:\*\*\*@host as a store"):
        address.require_usable("ftp://somebody:secret@host", "e")


def test_a_server_that_is_away_may_come_back() -> None:
    said = address.require_usable(f"http://somebody:secret@127.0.0.1:{mlflow_server.free_port()}", "e")
    assert said.startswith("ConnectionRefusedError")


@pytest.mark.slow
def test_a_deleted_experiment_is_found_out_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert address.require_usable(uri, "e") == ""
    assert not (tmp_path / "mlflow.db").exists()
    client = mlflow.MlflowClient(uri, uri)
    number = client.create_experiment("e", tmp_path.as_uri())
    assert address.require_usable(uri, "e") == ""
    client.delete_experiment(number)
    message = rf"mlflow.experiment: `e` was deleted .*`mlflow experiments restore -x {number}`\), or give another name"
    with pytest.raises(errors.ConfigError, match=message):
        address.require_usable(uri, "e")


@pytest.mark.slow
def test_sweeps_that_start_at_once_make_one_store(tmp_path: Path) -> None:
    """The file is there, and each of four processes finds it without tables."""
    database, start = tmp_path / "mlflow.db", time.time() + 20
    database.touch()
    program = (
        "import sys, time; from adiabatic_ray.tracking import address; "
        "time.sleep(max(0, float(sys.argv[2]) - time.time())); address.require_usable(sys.argv[1], 'any')"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{database}", str(start)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
