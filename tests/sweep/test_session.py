"""Around a sweep: where its results stay, who holds its folder, and what ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from adiabatic_ray import errors
from adiabatic_ray.sweep import session
from adiabatic_ray.trials.layout import SweepFolder
from tests import sweeps


def test_results_need_a_place_to_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    relative, absolute = sweeps.minimal(storage="runs"), sweeps.minimal(storage=str(tmp_path))
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    session.require_lasting(relative)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # as in a Ray job, whose folder ends with it
    with pytest.raises(errors.SweepError, match=r"would go to .*runs, in this job's own copy .* Set ADIABATIC_STORAGE"):
        session.require_lasting(relative)
    session.require_lasting(absolute)


def test_an_object_store_needs_a_server_for_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweeps.minimal(storage="s3://bucket/runs")
    with pytest.raises(errors.ConfigError, match=r"mlflow.uri: s3://bucket/runs can hold no database for MLflow"):
        session.require_lasting(sweep)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    session.require_lasting(sweep)


def test_two_processes_do_not_run_one_sweep(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "small")
    program = (
        f"import filelock; lock = filelock.FileLock({str(tmp_path / 'small' / '.lock')!r}); lock.acquire(); "
        "print('held', flush=True); input()"
    )
    folder.path.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert session.owned(folder)
        with (
            pytest.raises(errors.SweepError, match=r"is in use by another process that runs this sweep"),
            session.sole_owner(folder),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    assert not session.owned(folder)
    with session.sole_owner(folder):
        assert session.owned(folder)
    assert not session.owned(folder)


def signalled_twice(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with session.interruptible() as interrupted:
        assert not interrupted.is_set()
        os.kill(os.getpid(), number)
        assert interrupted.wait(10)
        assert capfd.readouterr().err == "\nending; once more to end at once\n"
        os.kill(os.getpid(), number)
        raise AssertionError("the second signal was not heard")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        signalled_twice(number, capfd)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_leaves_the_signals_alone() -> None:
    seen: list[object] = []

    def run() -> None:
        with session.interruptible() as interrupted:
            seen.extend([signal.getsignal(signal.SIGINT), interrupted.is_set()])

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert seen == [before, False]
