"""A sweep to be mirrored."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest

from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.store import TrialStore
from tests.tracking import mirrored


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without a run. MLflow takes seconds to make one, so tests start from a copy."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> TrialStore:
    """The untouched encoder and one trial that runs, tracked by default in a database beside the sweep's folder."""
    shutil.copy(empty_database, StorageFolder(tmp_path).mlflow_database)
    return mirrored.create(tmp_path)
