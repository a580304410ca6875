"""Where MLflow's store is, and addresses that show no password."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pytest

from adiabatic_ray.tracking import address
from adiabatic_ray.trials.layout import StorageFolder


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
