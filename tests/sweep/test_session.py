"""Around a sweep: what it listens on, and a cluster that is not there."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_ray_of_our_own_listens_on_the_loopback_address_only() -> None:
    processes = psutil.Process().children(recursive=True)
    listening = [
        (process.name(), connection.laddr.ip)
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {"raylet", "gcs_server"} <= {name for name, _ in listening}
    assert {address for _, address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


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
