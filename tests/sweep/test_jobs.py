"""Sweeps as jobs: submitted, stopped, resumed, read; and what is refused before anything is sent."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from adiabatic_ray import cli, errors
from adiabatic_ray.report.ledger import Ledger
from adiabatic_ray.sweep import jobs
from tests import mlflow_server

RAY = str(Path(sys.executable).with_name("ray"))  # which need not be on the path
PLANTED = "planted-secret-2f6c1d"  # must be found nowhere but where it was planted


@dataclass(frozen=True)
class Head:
    """A Ray head of our own, which keeps the sweeps of its jobs under `storage`, and an MLflow server that keeps all
    in `mlflow`."""

    address: str
    storage: Path
    session: Path
    mlflow: Path

    def ledger(self, name: str) -> Ledger:
        return Ledger(self.storage / name)


@pytest.fixture(scope="module")
def head(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    storage, mlflow = tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("mlflow")
    session = Path(tempfile.mkdtemp(prefix="ray"))  # the paths of sockets must be short
    port, mlflow_port = mlflow_server.free_port(), mlflow_server.free_port()
    environment = os.environ | {
        "ADIABATIC_STORAGE": str(storage),
        "ADIABATIC_POCKET": str(pocket),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_TOKEN": PLANTED,
        "MLFLOW_TRACKING_USERNAME": "somebody",
        "MLFLOW_TRACKING_PASSWORD": PLANTED,
        "MLFLOW_TRACKING_URI": f"http://somebody:{PLANTED}@127.0.0.1:{mlflow_port}",
    }
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", f"--temp-dir={session}"]
    command += ["--node-ip-address=127.0.0.1", f"--port={mlflow_server.free_port()}", f"--dashboard-port={port}"]
    command += ["--dashboard-agent-listen-port=0"]  # Ray's own choice is taken if another Ray runs, as between tests
    with (session / "start.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with mlflow_server.running(mlflow, mlflow_port):
            yield Head(wait_for_jobs(f"http://127.0.0.1:{port}", session / "start.log"), storage, session, mlflow)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(session, ignore_errors=True)


@pytest.fixture
def working_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, from which it submits."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_for_jobs(address: str, log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            jobs.Cluster(address).jobs("any")
            return address
        except (errors.ResourceError, RuntimeError):
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def finished(head: Head, name: str) -> set[int]:
    folder = head.storage / name
    if not (folder / "sweep.json").exists():
        return set()
    return {record.number for record in head.ledger(name).finished() if record.number}


@pytest.fixture
def arguments() -> Iterator[set[str]]:
    """The arguments of every process of this machine that was seen while the test ran."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.3):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    seen.add(" ".join(process.cmdline()))

    looking = threading.Thread(target=look)
    looking.start()
    yield seen
    over.set()
    looking.join()


def holding(text: str, *folders: Path) -> set[str]:
    """The names of all files under folders that hold a text, in an archive too."""
    found = subprocess.run(["grep", "-rlF", text, *map(str, folders)], capture_output=True, text=True)
    names = {Path(line).name for line in found.stdout.splitlines()}
    for path in (path for folder in folders for path in folder.rglob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            names |= {f"{path.name}/{name}" for name in archive.namelist() if text.encode() in archive.read(name)}
    return names


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_is_submitted_stopped_and_resumed(
    head: Head,
    arguments: set[str],
    write_sweep: Callable[..., Path],
    working_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", PLANTED)
    (working_dir / ".env").write_text(f"HF_TOKEN={PLANTED}")
    rates = {"low": 1e-7, "high": 1e-4, "log": True}  # none that diverges
    path = write_sweep(
        {
            "storage": None,
            "train.steps": 80,
            "search.space.learning_rate": rates,
            "budget.trials": 5,
            "budget.stop_harmful": False,
        }
    )
    at = ["--address", head.address]

    assert cli.main(["submit", str(path), *at]) == 0
    assert "submitted to" in capfd.readouterr().out
    while not finished(head, "small"):
        time.sleep(0.1)
    assert cli.main(["submit", str(path), *at]) == 0
    assert "runs at" in capfd.readouterr().out  # not twice at a time
    assert cli.main(["stop", "small", *at]) == 0
    assert "small-1: stopped" in capfd.readouterr().out
    before = {number: head.ledger("small").records[number] for number in finished(head, "small")}
    assert len(before) < 5, "the sweep was over too soon for this test"

    assert cli.main(["submit", str(path), *at, "--follow"]) == 0
    said = capfd.readouterr().out
    assert "small: going on after" in said
    assert "the sweep is over" in said
    records = head.ledger("small").records
    for number, record in before.items():  # none was run again; the best are confirmed at the sweep's end
        assert dataclasses.replace(records[number], confirmation={}) == record
    assert {record.state for record in records.values()} == {"complete"}
    assert len({str(sorted(record.config.items())) for record in records.values()}) == len(records) == 6

    assert cli.main(["logs", "small", *at]) == 0
    assert "the sweep is over" in capfd.readouterr().out
    assert cli.main(["status", str(path), *at]) == 0
    assert [line.split(".")[0] for line in capfd.readouterr().out.splitlines()] == [
        "small-1: stopped",
        "small-2: succeeded",
    ]
    assert cli.main(["status", "smal", *at]) == 1
    assert "runs, or ran, a sweep `smal`; it knows `small`" in capfd.readouterr().err

    # Secrets: nowhere in what was kept, said or shown, where other words of the sweep are found.
    kept = head.storage, head.mlflow, head.session
    places = {"sweep.json", "report.html", "server.db", "small.yaml", "job-driver-small-2.log"}
    assert places <= holding("questions", *kept)
    assert {"job-driver-small-2.log"} <= holding("MLflow: http://somebody:***@127.0.0.1:", *kept)
    assert holding(PLANTED, *kept) == set()
    assert any("-m adiabatic_ray sweep small.yaml" in line for line in arguments)
    assert not any(PLANTED in line for line in arguments)
    shown = str(jobs.Cluster(head.address).jobs("small"))
    assert "RAY_JOB_STOP_SIGNAL" in shown
    assert PLANTED not in shown


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("working_dir")
def test_rays_own_command_and_two_sweeps_at_once(head: Head, write_sweep: Callable[..., Path]) -> None:
    names = ["one", "two"]
    for name in names:
        write_sweep(
            {
                "name": name,
                "storage": None,
                "budget.trials": 2,
                "resources.concurrent_trials": 1,
                "mlflow": {"uri": f"sqlite:///{head.storage}/mlflow.db"},
            }
        )
    found: dict[str, subprocess.CompletedProcess[str]] = {}

    def submit(name: str) -> None:
        command = [RAY, "job", "submit", "--address", head.address, "--working-dir", ".", "--"]
        command += ["python", "-m", "adiabatic_ray", "sweep", f"{name}.yaml"]
        found[name] = subprocess.run(command, capture_output=True, text=True)

    threads = [threading.Thread(target=submit, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert found[name].returncode == 0, found[name].stdout + found[name].stderr
        records = head.ledger(name).records
        assert sorted(records) == [0, 1, 2]
        assert {record.state for record in records.values()} <= {"complete", "stopped"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("working_dir")
def test_results_that_would_be_lost_with_the_job_are_refused(
    head: Head, write_sweep: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_sweep({"name": "lost", "storage": "runs"})
    assert cli.main(["submit", str(path), "--address", head.address, "--follow"]) == 1
    captured = capfd.readouterr()
    assert "Set ADIABATIC_STORAGE on the cluster's nodes" in captured.out
    assert "Traceback" not in captured.out
    assert "lost-1 ended as failed" in captured.err


# ---- before anything is sent ----


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
