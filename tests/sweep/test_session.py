"""Around a sweep: what it listens on, and a cluster that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def test_a_ray_of_our_own_listens_on_the_loopback_address_only() -> None:
    program = """
import json, psutil, ray
from adiabatic_ray.sweep import session
with session.connected():
    ray.get(ray.remote(lambda: 0).remote())  # so that there is a worker
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [
        (" ".join([process.name(), *process.cmdline()]), connection.laddr.ip, connection.laddr.port)
        for process in family
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
print(json.dumps(found))
"""
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listening = json.loads(done.stdout.splitlines()[-1])
    for part in ("raylet", "gcs_server", "ray::IDLE"):
        assert any(part in name for name, _, _ in listening), f"{part} was not seen"
    assert {address for _, address, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert 8265 not in {port for _, _, port in listening}  # no dashboard, which would take jobs from anybody here


def test_the_mlflow_command_that_a_sweep_prints_listens_on_the_loopback_address() -> None:
    from mlflow import cli

    (host,) = (option for option in cli.server.params if option.name == "host")
    assert host.default == "127.0.0.1"


def test_a_cluster_that_does_not_answer_is_an_error() -> None:
    program = """
from adiabatic_ray import errors
from adiabatic_ray.sweep import session
try:
    with session.connected():
        pass
except errors.ResourceError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("no Ray cluster answers at RAY_ADDRESS=127.0.0.1:9"), done.stderr
