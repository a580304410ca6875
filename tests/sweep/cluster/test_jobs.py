"""What a job is sent and what is refused before anything is sent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from adiabatic_ray import cli, errors
from adiabatic_ray.sweep.cluster import jobs
from tests import mlflow_server

PLANTED = "planted-secret-2f6c1d"  # must be found nowhere but where it was planted


def test_an_address_where_no_job_server_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs", "small", "--address", f"127.0.0.1:{mlflow_server.free_port()}"]) == 1
    assert "no job server answers at http://127.0.0.1" in capsys.readouterr().err
    assert cli.main(["logs", "small", "--address", "ray://127.0.0.1:10001"]) == 1
    assert "Expected http://HOST:8265" in capsys.readouterr().err


def test_without_an_address(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert cli.main(["stop", "small"]) == 1
    assert "Give --address http://HOST:8265" in capsys.readouterr().err


def test_secrets_and_unset_variables_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert jobs.environment(["SOMEWHERE"]) == jobs.ENDING | {"SOMEWHERE": "/data"}
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, PLANTED)
        with pytest.raises(errors.ConfigError, match=f"{name} looks like a secret") as caught:
            jobs.environment([name])
        assert PLANTED not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:{PLANTED}@mlflow:5000")
    with pytest.raises(errors.ConfigError, match=r"MLFLOW_TRACKING_URI holds a password") as caught:
        jobs.environment(["MLFLOW_TRACKING_URI"])
    assert PLANTED not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert jobs.environment(["MLFLOW_TRACKING_URI"])["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    with pytest.raises(errors.ConfigError, match=r"is not set. Set it: export NOWHERE=..."):
        jobs.environment(["NOWHERE"])


def test_a_job_is_told_where_mlflow_and_the_hub_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert jobs.shared() == set()
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    for here in ("sqlite:////home/me/mlflow.db", "http://localhost:5000", "http://127.0.0.1:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
        assert jobs.shared() == {"HF_ENDPOINT"}  # the rest means nothing there
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    assert jobs.environment(jobs.shared())["MLFLOW_TRACKING_URI"] == "https://mlflow.example"


def test_what_is_uploaded(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    for name in ("sweeps/my.yaml", "data/large.parquet", "runs/mlflow.db", ".env", ".git/config", "id.pem", "code.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".rayignore").write_text("/data/\n")
    (folder / ".gitignore").write_text("runs/\n")
    assert jobs.pack(folder, Path("sweeps/my.yaml"), tmp_path / "1.zip").stat().st_size < 10_000
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(tmp_path / "1.zip", unpacked)
    assert {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()} == {
        "sweeps/my.yaml",
        "code.py",
        ".rayignore",
        ".gitignore",
    }
    with pytest.raises(errors.SweepError, match=r"runs/mlflow.db would not be uploaded: .gitignore or .rayignore"):
        jobs.pack(folder, Path("runs/mlflow.db"), tmp_path / "2.zip")


def test_an_upload_that_the_server_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "my.yaml").write_text("x")
    (tmp_path / "work" / "embeddings.npy").write_bytes(os.urandom(jobs.UPLOAD_LIMIT))
    with pytest.raises(
        errors.SweepError,
        match=r"is 100.\d MiB when packed, and a job server takes 100.0 MiB.*The largest: embeddings.npy \(100.0 MiB\)",
    ):
        jobs.pack(tmp_path / "work", Path("my.yaml"), tmp_path / "1.zip")
