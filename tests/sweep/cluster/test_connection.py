"""Reaching a cluster: what a Ray of our own listens on, a cluster that is not there, and the errors of tasks."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adiabatic_ray import errors
from adiabatic_ray.sweep.cluster import connection
from tests import mlflow_server, ray_head
from tests.terminal import rays_lines
from tests.waiting import until


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


CONNECT = """
from adiabatic_ray import errors
from adiabatic_ray.sweep.cluster import connection
try:
    with connection.connected():
        print("connected")
except errors.ResourceError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9: "),
        ("head", "cannot connect to the Ray cluster at RAY_ADDRESS=head: Invalid address format: head"),
        ("http://127.0.0.1:9", "no Ray cluster answers at RAY_ADDRESS=http://127.0.0.1:9: "),
    ],
)
def test_an_address_without_a_cluster_is_an_error(address: str, said: str) -> None:
    done = run(CONNECT, RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")
    assert done.stdout.startswith(said), done.stderr
    assert done.stderr == ""


@pytest.fixture
def another_server() -> Iterator[str]:
    """The address of a web server, as Ray's dashboard is one."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_the_address_of_something_else_is_an_error(another_server: str) -> None:
    done = run(CONNECT, RAY_ADDRESS=another_server, RAY_AUTH_MODE="disabled")
    assert done.stdout.startswith(f"RAY_ADDRESS={another_server} is not the address of a Ray cluster's head"), done
    assert done.stderr == ""
    done = run(CONNECT, RAY_ADDRESS=f"http://{another_server}", RAY_AUTH_MODE="disabled")
    assert "It looks like you set RAY_ADDRESS to an HTTP address" in done.stdout, done
    assert done.stderr == ""


TOKEN = "0123456789" * 4


@pytest.fixture
def guarded_head() -> Iterator[str]:
    """The address of a cluster that takes this token only."""
    port = mlflow_server.free_port()
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    with ray_head.started(port, "--num-cpus=1", "--include-dashboard=false", variables=variables) as log:
        until(lambda: "Ray runtime started" in log.read_text(), "a cluster", seconds=120)
        yield f"127.0.0.1:{port}"


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token(guarded_head: str, tmp_path: Path) -> None:
    """Without the right one it is said in a line or two what to set, and nothing of Ray's is printed."""
    variables = {"RAY_ADDRESS": guarded_head, "HOME": str(tmp_path)}  # whose folder may hold another token
    mode, token = {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_TOKEN": TOKEN}
    refused = f"the Ray cluster at RAY_ADDRESS={guarded_head} refuses the token of this process, or asks for one. Set "
    for said, given in (
        (refused, {"RAY_AUTH_MODE": "disabled"}),
        (refused, mode | {"RAY_AUTH_TOKEN": TOKEN[::-1]}),
        (f"cannot connect to the Ray cluster at RAY_ADDRESS={guarded_head}: Token authentication is enabled", mode),
        ("connected\n", mode | token),
    ):
        done = run(CONNECT, **variables, **given)
        assert done.stdout.startswith(said), done
        assert rays_lines(done.stderr) == []


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
