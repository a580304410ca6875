"""Sweeps as jobs of a real Ray head: submitted, stopped, resumed and read, without a secret in what they leave."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from adiabatic_ray import cli, errors
from adiabatic_ray.sweep.cluster.jobs import JobServer
from adiabatic_ray.trials.store import TrialStore, exists
from tests import mlflow_server, ray_head
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PLANTED = "planted-secret-2f6c1d"  # must be found nowhere but where it was planted


@dataclass(frozen=True)
class Head:
    """A Ray head of our own, which keeps the sweeps of its jobs under `storage`, and an MLflow server that keeps all
    in `mlflow`."""

    address: str
    storage: Path
    session: Path
    mlflow: Path

    def store(self, name: str) -> TrialStore:
        return TrialStore(self.storage / name)


@pytest.fixture(scope="module")
def head(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    storage, mlflow = tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("mlflow")
    port, mlflow_port = mlflow_server.free_port(), mlflow_server.free_port()
    variables = {
        "ADIABATIC_STORAGE": str(storage),
        "ADIABATIC_POCKET": str(pocket),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_TOKEN": PLANTED,
        "MLFLOW_TRACKING_USERNAME": "somebody",
        "MLFLOW_TRACKING_PASSWORD": PLANTED,
        "MLFLOW_TRACKING_URI": f"http://somebody:{PLANTED}@127.0.0.1:{mlflow_port}",
    }
    # Ray counts GPUs that are not there, and trials that get one fall back to the CPU.
    options = ["--num-cpus=2", "--num-gpus=2", f"--dashboard-port={port}"]
    with (
        ray_head.started(mlflow_server.free_port(), *options, variables=variables) as log,
        mlflow_server.running(mlflow, mlflow_port),
    ):
        address = f"http://127.0.0.1:{port}"
        until(lambda: takes_jobs(address), f"a job server at {address}", seconds=120, pause=0.5)
        yield Head(address, storage, log.parent, mlflow)


@pytest.fixture
def working_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, from which it submits."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def takes_jobs(address: str) -> bool:
    try:
        JobServer(address).jobs("any")
    except (errors.ResourceError, RuntimeError):
        return False
    return True


def finished(head: Head, name: str) -> set[int]:
    if not exists(head.storage / name):
        return set()
    return {record.number for record in head.store(name).finished() if record.number}


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
    # By its input, since the arguments of all processes are looked at.
    listed = subprocess.run(["grep", "-rlF", "-f", "-", *map(str, folders)], input=text, capture_output=True, text=True)
    names = {Path(line).name for line in listed.stdout.splitlines()}
    for path in (path for folder in folders for path in folder.rglob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            names |= {f"{path.name}/{name}" for name in archive.namelist() if text.encode() in archive.read(name)}
    return names


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
    until(lambda: bool(finished(head, "small")), "the first finished trial", seconds=300, pause=0.1)
    assert cli.main(["submit", str(path), *at]) == 0
    assert "runs at" in capfd.readouterr().out  # not twice at a time
    assert cli.main(["stop", "small", *at]) == 0
    assert "small-1: stopped" in capfd.readouterr().out
    before = {number: head.store("small").records[number] for number in finished(head, "small")}
    assert len(before) < 5, "the sweep was over too soon for this test"

    assert cli.main(["submit", str(path), *at, "--follow"]) == 0
    said = capfd.readouterr().out
    assert "small: going on after" in said
    assert "the sweep is over" in said
    records = head.store("small").records
    for number, record in before.items():  # none was run again; the best are tested at the sweep's end
        untested = dataclasses.replace(records[number], confirmations=record.confirmations, scaled=record.scaled)
        assert untested == record
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
    assert [line for line in arguments if PLANTED in line] == []
    shown = str(JobServer(head.address).jobs("small"))
    assert "RAY_JOB_STOP_SIGNAL" in shown
    assert PLANTED not in shown


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
    done: dict[str, subprocess.CompletedProcess[str]] = {}

    def submit(name: str) -> None:
        command = [ray_head.RAY, "job", "submit", "--address", head.address, "--working-dir", ".", "--"]
        command += ["python", "-m", "adiabatic_ray", "sweep", f"{name}.yaml"]
        done[name] = subprocess.run(command, capture_output=True, text=True)

    threads = [threading.Thread(target=submit, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert done[name].returncode == 0, done[name].stdout + done[name].stderr
        records = head.store(name).records
        assert sorted(records) == [0, 1, 2]
        assert {record.state for record in records.values()} <= {"complete", "stopped"}


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
