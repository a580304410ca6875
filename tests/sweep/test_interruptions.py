"""Signals, kills and lost processes: nothing that was finished is lost, and the sweep goes on as if unbroken."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import mlflow
import psutil
import pytest
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config, errors, storage, sweep_file
from adiabatic_ray.sweep import driver
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials.layout import StorageFolder, SweepFolder
from adiabatic_ray.trials.record import TrialRecord
from adiabatic_ray.trials.store import TrialStore, exists
from tests import mlflow_server, tracked
from tests.terminal import rays_lines
from tests.waiting import until

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

LONG_TRIALS = {
    "train.steps": 150,
    "train.evaluations": 3,
    "budget.trials": 3,
    "budget.stop_harmful": False,
    "search.space.learning_rate": {"low": 1e-7, "high": 1e-4, "log": True},
}


def start(path: Path, printed: IO[str] | int = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
    """A sweep as a user starts it, in a process with a Ray of its own, and where what it prints goes."""
    own_ray = {"RAY_ADDRESS": ""} if "RAY_ADDRESS" in os.environ else {}
    return subprocess.Popen(
        [sys.executable, "-m", "adiabatic_ray", "sweep", str(path)],
        stdout=printed,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | own_ray | variables,
    )


def folder_of(sweep: config.Sweep) -> SweepFolder:
    return StorageFolder.at(sweep.storage).sweep(sweep.name)


def records(sweep: config.Sweep) -> dict[int, TrialRecord]:
    folder = folder_of(sweep).path
    return TrialStore(folder).records if exists(folder) else {}


def wait_for(sweep: config.Sweep, number: int, points: int) -> None:
    """Wait until a trial that runs has been evaluated so often."""

    def reached() -> bool:
        record = records(sweep).get(number)
        return record is not None and len(record.points) >= points

    until(reached, f"{points} evaluation points of trial {number}", seconds=180)
    assert records(sweep)[number].state == "running", "the trial was over too soon for this test"


def wait_beside(
    process: subprocess.Popen[str], reached: Callable[[], bool], what: str, seconds: float = 180, pause: float = 0.02
) -> None:
    """Wait until a moment in a sweep that a process runs, which must not end before."""

    def reached_alive() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return reached()

    until(reached_alive, what, seconds, pause)


def cut_off_in_trial_2(path: Path, number: signal.Signals) -> tuple[str, dict[int, TrialRecord]]:
    """Start a sweep and end it by a signal while its second trial runs: what it printed, and the records it left."""
    sweep = sweep_file.load(path)
    process = start(path)
    wait_for(sweep, number=2, points=1)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=90)
    assert process.returncode == 130, printed
    left = records(sweep)
    assert [r.state for _, r in sorted(left.items())] == ["complete", "complete", "running"]
    return printed, left


def goes_on_as_if_unbroken(path: Path, cut_off: dict[int, TrialRecord], unbroken: dict[int, Any]) -> None:
    """Start a sweep that was cut off in its second trial again, and see it to its end."""
    sweep = sweep_file.load(path)
    process = start(path)
    printed, _ = process.communicate(timeout=180)
    assert process.returncode == 0, printed
    assert "going on after 1 finished trials" in printed
    assert outcome(sweep) == unbroken
    assert records(sweep)[2].points[0] == cut_off[2].points[0]  # it went on from its checkpoint


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool], what: str) -> str:
    """Kill a sweep's own process at a moment, wait until those that it started are gone, and what it printed."""
    wait_beside(process, reached, what, pause=0.005)
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, left = psutil.wait_procs(started, timeout=30)
    for one in left:
        one.kill()
    return process.communicate(timeout=30)[0]


def kill_trial(sweep: config.Sweep, number: int) -> list[int]:
    """Kill the process in which this process's Ray runs a trial; its id.

    Its title says which, as Ray's dashboard shows it.
    """
    trials: list[psutil.Process] = []
    title = f"ray::{sweep.name}, trial {number}"

    def found() -> bool:
        trials[:] = [p for p in psutil.Process().children(recursive=True) if title in " ".join(p.cmdline())]
        return bool(trials)

    until(found, "the process of a trial", seconds=30, pause=0.005)
    for process in trials:
        process.kill()
    return [process.pid for process in trials]


def outcome(sweep: config.Sweep) -> dict[int, Any]:
    return {n: (dict(r.config), r.state, r.gain, r.constraint, dict(r.confirmation)) for n, r in records(sweep).items()}


@pytest.fixture(scope="module")
def unbroken(
    write_sweep_in: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    ray_cluster: None,  # noqa: ARG001
) -> dict[int, Any]:
    """What the sweep comes to when nothing happens to it."""
    sweep = sweep_file.load(write_sweep_in(tmp_path_factory.mktemp("unbroken"), LONG_TRIALS))
    driver.run(sweep, Console())
    return outcome(sweep)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_was_cut_off_goes_on_as_if_unbroken(
    write_sweep: Callable[..., Path], unbroken: dict[int, Any], number: signal.Signals
) -> None:
    path = write_sweep(LONG_TRIALS)
    sweep = sweep_file.load(path)
    printed, cut_off = cut_off_in_trial_2(path, number)
    assert "Traceback" not in printed
    assert rays_lines(printed) == []
    assert "stopped; run the same command to go on" in printed
    assert "RUNNING" not in tracked.statuses(sweep)

    goes_on_as_if_unbroken(path, cut_off, unbroken)
    assert tracked.statuses(sweep) == ["FINISHED"] * 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 64 MB, where the system lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Write a file that leaves no room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, True])
def test_a_full_disk_is_said_and_waited_for(
    write_sweep: Callable[..., Path], small_disk: Path, unbroken: dict[int, Any], tmp_path: Path, ends: bool
) -> None:
    """With room again the sweep goes on to the same result, also if it was ended while it waited."""
    path = write_sweep({"storage": str(small_disk / "runs"), **LONG_TRIALS})
    sweep, log = sweep_file.load(path), tmp_path / "log"
    with log.open("w") as printed:
        process = start(path, printed)
    wait_for(sweep, number=2, points=1)
    filler = fill(small_disk)
    wait_beside(process, lambda: "No space left on device" in log.read_text(), "what is the matter", seconds=60)
    if ends:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 130, log.read_text()
        assert "Traceback" not in log.read_text()
        filler.unlink()
        with log.open("w") as printed:
            process = start(path, printed)
    filler.unlink(missing_ok=True)
    assert process.wait(timeout=180) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert outcome(sweep) == unbroken


@pytest.mark.slow
def test_a_sweep_killed_at_three_moments_ends_as_if_unbroken(
    write_sweep: Callable[..., Path], unbroken: dict[int, Any]
) -> None:
    path = write_sweep(LONG_TRIALS)
    sweep = sweep_file.load(path)
    folder = folder_of(sweep)

    cache = folder.storage.cache
    kill_when(start(path), lambda: any(cache.glob("[!.]*/meta.json")), "the first table of the cache")
    assert records(sweep) == {}, "the cache was full too soon for this test"

    def between_points() -> bool:
        return 2 in records(sweep) and len(records(sweep)[2].points) == 1

    kill_when(start(path), between_points, "the first evaluation of trial 2")
    cut_off = records(sweep)
    assert [r.state for _, r in sorted(cut_off.items())] == ["complete", "complete", "running"]

    printed = kill_when(
        start(path), lambda: any(folder.path.glob("trials/000[1-3]/confirmation.csv")), "the first confirmation"
    )
    assert "going on after 1 finished trials" in printed
    assert [r.state for _, r in sorted(records(sweep).items())] == ["complete"] * 4
    assert records(sweep)[2].points[0] == cut_off[2].points[0]  # it went on from its checkpoint
    assert not (folder.path / "best").exists(), "all was confirmed too soon for this test"
    assert "RUNNING" in tracked.statuses(sweep)  # nobody could say that it ended

    last = start(path)
    printed, _ = last.communicate(timeout=180)
    assert last.returncode == 0, printed
    assert "going on after 3 finished trials" in printed
    assert "Traceback" not in printed
    assert rays_lines(printed) == []
    assert outcome(sweep) == unbroken
    assert len({str(sorted(record.config.items())) for record in records(sweep).values()}) == 4
    assert set(tracked.runs(sweep)) == {"parent", "0", "1", "2", "3"}
    assert tracked.statuses(sweep) == ["FINISHED"] * 5


@pytest.mark.slow
def test_an_mlflow_server_that_is_down_for_a_minute_costs_a_sweep_nothing(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    changes = {"train.steps": 60, "budget.trials": 1000, "evaluate.confirmation": None}
    path = write_sweep(LONG_TRIALS | changes)
    sweep = sweep_file.load(path)
    port = mlflow_server.free_port()

    def times() -> list[float]:
        """When each evaluation point was reached."""
        return sorted(point.time for number, r in records(sweep).items() if number for point in r.points)

    with contextlib.ExitStack() as ending:
        with mlflow_server.running(tmp_path / "server", port) as uri:
            process = start(path, MLFLOW_TRACKING_URI=uri)
            ending.callback(process.kill)
            wait_beside(process, lambda: "2" in tracked.runs(sweep, uri), "the run of trial 2 in MLflow", pause=0.2)
        down = time.time()
        wait_beside(
            process,
            lambda: time.time() > down + 60 and len([when for when in times() if when > down]) > 10,
            "a minute and ten evaluation points without MLflow",
            seconds=300,
        )
        up = time.time()
        with mlflow_server.running(tmp_path / "server", port):
            wait_beside(
                process,
                lambda: len([when for when in times() if when > up]) > 5,
                "five evaluation points with MLflow again",
                pause=0.2,
            )
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=200)
            assert process.returncode == 130, printed
            assert "is behind" not in printed
            runs, left = tracked.runs(sweep, uri), records(sweep)
            assert set(runs) == {"parent", *map(str, left)}
            assert runs["parent"].info.status == "KILLED"  # as it was stopped
            client = mlflow.MlflowClient(uri)
            for number, record in left.items():
                run = runs[str(number)]
                assert run.info.status == {"complete": "FINISHED", "running": "KILLED"}[record.state]
                assert {key: run.data.params[key] for key in record.config} == {
                    k: str(v) for k, v in record.config.items()
                }
                for key in record.metrics:
                    told = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                    assert told == [(point.step, point.metrics[key]) for point in record.points if key in point.metrics]
    assert len([when for when in times() if down < when < up]) >= 10  # it did not wait for the server


@pytest.mark.slow
def test_a_sweep_in_an_object_store_goes_on_on_a_machine_with_an_empty_disk(
    write_sweep: Callable[..., Path],
    unbroken: dict[int, Any],
    s3: ThreadedMotoServer,  # noqa: ARG001
    pocket: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_sweep(LONG_TRIALS | {"storage": "s3://bucket/runs"})
    sweep = sweep_file.load(path)
    folder = folder_of(sweep)
    with mlflow_server.running(tmp_path / "server", mlflow_server.free_port()) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first machine"))
        _, cut_off = cut_off_in_trial_2(path, signal.SIGINT)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second machine"))
        goes_on_as_if_unbroken(path, cut_off, unbroken)
        runs = tracked.runs(sweep, uri)
        assert set(runs) == {"parent", "0", "1", "2", "3"}
        assert {run.info.status for run in runs.values()} == {"FINISHED"}

        exported = tmp_path / "exported"
        for words in (["leaderboard", path], ["report", path], ["export", path, exported, "--force"]):
            done = subprocess.run(
                [sys.executable, "-m", "adiabatic_ray", *map(str, words)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.glob("s3:*")), "something took the URL for a folder"
    page = storage.read(folder.report)
    assert page is not None
    assert b"Adiabatic regime" in page
    tuned, base = (
        SentenceTransformer(str(model), device="cpu").encode_query(["who planted the tree?"])
        for model in (exported / "query_encoder", pocket / "encoder")
    )
    assert 0 < abs(tuned - base).max() < 0.5


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(
    write_sweep: Callable[..., Path], unbroken: dict[int, Any]
) -> None:
    sweep = sweep_file.load(write_sweep(LONG_TRIALS))
    killed: list[int] = []

    def kill() -> None:
        wait_for(sweep, number=2, points=1)
        killed.extend(kill_trial(sweep, 2))

    killer = threading.Thread(target=kill)
    killer.start()
    driver.run(sweep, Console())
    killer.join()
    assert len(killed) == 1
    assert outcome(sweep) == unbroken


@pytest.mark.slow
def test_a_process_that_dies_each_time_is_a_crashed_trial(write_sweep: Callable[..., Path], ray_cluster: None) -> None:  # noqa: ARG001
    sweep = sweep_file.load(write_sweep(LONG_TRIALS | {"resources.retries": 0, "budget.trials": 2}))

    def kill() -> None:
        wait_for(sweep, number=1, points=1)
        kill_trial(sweep, 1)

    killer = threading.Thread(target=kill)
    killer.start()
    driver.run(sweep, Console())
    killer.join()
    left = records(sweep)
    assert left[1].state == "crashed"
    assert "its process died" in left[1].reason
    assert left[2].state == "complete"
    assert tracked.statuses(sweep) == ["FAILED", "FINISHED", "FINISHED", "FINISHED"]


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 20])
def test_a_process_that_cannot_load_the_encoder_is_tried_again_and_says_why(
    retries: int,
    write_sweep: Callable[..., Path],
    pocket: Path,
    tmp_path: Path,
    ray_cluster: None,  # noqa: ARG001
) -> None:
    import ray

    encoder, elsewhere = tmp_path / "encoder", tmp_path / "elsewhere"
    shutil.copytree(pocket / "encoder", encoder)
    changes = {"model.name": str(encoder), "budget.trials": 1, "budget.failed_trials": 0, "budget.stop_harmful": False}
    sweep = sweep_file.load(write_sweep(changes | {"resources.retries": retries}))

    def take_away_for_a_time() -> None:
        until(lambda: 0 in records(sweep), "the untouched encoder's record", seconds=120)
        earlier = set(ray._private.state.actors())  # of the embedding, some of which may still be ending
        encoder.rename(elsewhere)

        def one_died() -> bool:
            return bool(ray._private.state.actors(actor_state_name="DEAD").keys() - earlier)

        try:
            until(one_died, "a trial's process that cannot load the encoder", seconds=120)
        finally:
            elsewhere.rename(encoder)

    taking = threading.Thread(target=take_away_for_a_time)
    taking.start()
    if retries:
        driver.run(sweep, Console())
        assert records(sweep)[1].state == "complete"
    else:
        with pytest.raises(errors.SweepError, match=r"1 trials crashed.*; the last one: ModelError: .*encoder"):
            driver.run(sweep, Console())
    taking.join()
