"""Reaching a cluster: what a Ray of our own listens on, a cluster that is not there, and the errors of tasks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adiabatic_ray import errors
from adiabatic_ray.sweep.cluster import connection


def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python program in a process that has no Ray yet."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | variables
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def test_a_ray_of_our_own_listens_on_the_loopback_address_only() -> None:
    program = """
import json, psutil, ray
from adiabatic_ray.sweep.cluster import connection
with connection.connected() as own:
    assert own
    ray.get(ray.remote(lambda: 0).remote())  # so that there is a worker
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        (" ".join([process.name(), *process.cmdline()]), connection.laddr.ip, connection.laddr.port)
        for process in family
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
assert not ray.is_initialized()
print(json.dumps(listening))
"""
    done = run(program)
    assert done.returncode == 0, done.stderr
    listening = json.loads(done.stdout.splitlines()[-1])
    for part in ("raylet", "gcs_server", "ray::IDLE"):
        assert any(part in name for name, _, _ in listening), f"{part} was not seen"
    assert {address for _, address, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert 8265 not in {port for _, _, port in listening}  # no dashboard, which would take jobs from anybody here


def test_a_cluster_that_does_not_answer_is_an_error() -> None:
    program = """
from adiabatic_ray import errors
from adiabatic_ray.sweep.cluster import connection
try:
    with connection.connected():
        pass
except errors.ResourceError as error:
    print(error)
"""
    done = run(program, RAY_ADDRESS="127.0.0.1:9")
    assert done.stdout.startswith("no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9"), done.stderr


@pytest.mark.slow
def test_a_ray_of_our_own_leaves_sigterm_alone_and_may_start_on_any_thread() -> None:
    program = """
import signal, sys, threading
from adiabatic_ray.sweep.cluster import connection

def handle(number, frame):
    print("handled", flush=True)

def connect():
    with connection.connected() as own:
        print("own" if own else "another's", flush=True)

signal.signal(signal.SIGTERM, handle)
with connection.connected():
    signal.raise_signal(signal.SIGTERM)
thread = threading.Thread(target=connect)
thread.start()
thread.join()
"""
    done = run(program)
    assert (done.returncode, done.stdout) == (0, "handled\nown\n"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_that_is_there_is_used_and_left_running() -> None:
    import ray

    before = signal.getsignal(signal.SIGTERM)
    with connection.connected() as own:
        assert not own
        assert ray.is_initialized()
    assert ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is before


def refused() -> None:
    raise errors.DataError("questions: there is no such file")


def broken() -> None:
    raise ZeroDivisionError("a bug")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def result_of(work: Callable[[], object]) -> object:
    import ray

    return connection.get(ray.remote(max_retries=0)(work).remote())


@pytest.mark.usefixtures("ray_cluster")
def test_errors_of_tasks() -> None:
    """Our own come back as they were raised, a lost process is one of ours, and a bug stays what it is."""
    assert result_of(lambda: 7) == 7
    with pytest.raises(errors.DataError) as caught:
        result_of(refused)
    assert str(caught.value) == "questions: there is no such file"
    with pytest.raises(ZeroDivisionError, match="a bug"):
        result_of(broken)
    with pytest.raises(errors.SweepError, match=r"the process that embeds and exports died .*run the same command"):
        result_of(killed)


@pytest.mark.slow
def test_a_folder_for_temporary_files_with_a_long_name(tmp_path: Path) -> None:
    """Ray's sockets do not fit into it: without a shorter one it ends with a stack trace."""
    long = tmp_path / ("long-" * 20)
    long.mkdir()
    program = """
import ray
from adiabatic_ray.sweep.cluster import connection
with connection.connected():
    print(ray.get(ray.remote(lambda: 7).remote()))
"""
    done = run(program, TMPDIR=str(long))
    assert done.stdout == "7\n", done.stderr
    plain = run("import ray; ray.init(address='local', include_dashboard=False)", TMPDIR=str(long))
    assert plain.returncode != 0
