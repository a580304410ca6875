"""Each of Ray's private functions that we use does what we use it for, in the Ray that is installed."""

from __future__ import annotations

import collections
import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adiabatic_ray.sweep.cluster import ray_private
from tests import autoscaler, kubernetes_api, mlflow_server
from tests.waiting import until

RAY_CLUSTER = {
    "metadata": {"name": "search", "namespace": "team"},
    "spec": {
        "rayVersion": "2.60.0",
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},
            "template": {"spec": {"containers": [{"name": "ray", "resources": {"limits": {"cpu": "2"}}}]}},
        },
        "workerGroupSpecs": [
            {
                "groupName": "trials",
                "minReplicas": 0,
                "maxReplicas": 8,
                "rayStartParams": {},
                "template": {
                    "spec": {
                        "containers": [{"name": "ray", "resources": {"limits": {"cpu": "4", "nvidia.com/gpu": "1"}}}]
                    }
                },
            }
        ],
    },
}


def said(program: str, **variables: str) -> Any:
    """What a program prints as JSON, in a process that has not imported Ray, nor been told to send a token."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"} | variables
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def gcs(ray_cluster: None) -> Iterator[str]:  # noqa: ARG001
    """The address of the shared Ray's state, which forgets afterwards what an autoscaler told it."""
    import ray

    address = ray.get_runtime_context().gcs_address
    yield address
    autoscaler.report_groups(address)


@pytest.mark.usefixtures("ray_cluster")
def test_actors_that_load_what_they_need_or_are_at_work(tmp_path: Path) -> None:
    import ray

    class Loading:
        def __init__(self, loaded: Path) -> None:
            until(loaded.exists, f"{loaded}")

        def id(self) -> str:
            return str(ray.get_runtime_context().get_actor_id())

    before = ray_private.actors()
    actor = ray.remote(Loading).remote(tmp_path / "loaded")
    until(lambda: ray_private.actors() != before, "an actor that loads")
    (seen,) = ray_private.actors() - before
    (tmp_path / "loaded").touch()
    assert ray.get(actor.id.remote(), timeout=60) == seen
    assert ray_private.actors() - before == {seen}
    ray.kill(actor)
    until(lambda: seen not in ray_private.actors(), "the end of a killed actor")


def test_nodes_that_are_alive_and_those_that_may_come(gcs: str) -> None:
    assert sum(ray_private.nodes_alive().values()) == 1
    assert isinstance(ray_private.nodes_alive(), collections.Counter)
    assert ray_private.node_groups() == {}
    autoscaler.report_groups(gcs, trials=2, others=-1)
    assert ray_private.node_groups() == {"trials": ({"CPU": 1.0}, 2), "others": ({"CPU": 1.0}, math.inf)}


def test_the_node_types_of_a_ray_cluster_on_kubernetes(tmp_path: Path) -> None:
    program = """
import json
from adiabatic_ray.sweep.cluster import ray_private
print(json.dumps(ray_private.kuberay_node_types("search", "team")))
"""
    with kubernetes_api.serving(RAY_CLUSTER, tmp_path) as variables:
        types = said(program, **variables)
    assert (types["trials"]["max_workers"], types["headgroup"]["max_workers"]) == (8, 0)
    resources = types["trials"]["resources"]
    assert (resources["CPU"], resources["GPU"]) == (4, 1)
    assert types["headgroup"]["resources"]["CPU"] == 0


def test_outside_of_kubernetes_there_is_no_account() -> None:
    with pytest.raises(FileNotFoundError):
        ray_private.kuberay_node_types("search", "team")


@pytest.mark.parametrize("token", [True, False])
def test_the_token_is_sent_where_one_lies(token: bool, tmp_path: Path) -> None:
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(64 * "a")
    program = """
import json, os
from adiabatic_ray.sweep.cluster import ray_private
ray_private.enable_token_authentication()
print(json.dumps(os.environ.get("RAY_AUTH_MODE")))
"""
    assert said(program, HOME=str(tmp_path)) == ("token" if token else None)


def test_a_clusters_messages_are_not_printed() -> None:
    program = """
from ray._private import worker
from adiabatic_ray.sweep.cluster import ray_private

def publish(message):
    worker.print_to_stdstream({"lines": [message], "pid": "raylet", "is_err": False}, ignore_prefix=False)

publish("A worker died")
ray_private.keep_quiet()
publish("Another one died")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "(raylet)" in done.stdout
    assert "A worker died" in done.stdout
    assert "Another" not in done.stdout + done.stderr


def test_a_folder_is_packed_without_what_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    for name in ("my.yaml", "code/run.py", "data/large.npy", "runs/small/sweep.json", ".git/config", "own.pem"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".rayignore").write_text("/data/\n")
    (folder / ".gitignore").write_text("runs/\n")
    ray_private.pack(folder, tmp_path / "packed.zip", ["*.pem"])
    with zipfile.ZipFile(tmp_path / "packed.zip") as packed:
        files = {name for name in packed.namelist() if not name.endswith("/")}
    assert files == {"my.yaml", "code/run.py", ".rayignore", ".gitignore"}
    assert ray_private.JOB_UPLOAD_LIMIT == 100 * 2**20


def test_a_process_knows_that_it_goes_through_rays_client(gcs: str) -> None:
    assert not ray_private.is_client()
    port = mlflow_server.free_port()
    command = [sys.executable, "-m", "ray.util.client.server", "--host=127.0.0.1", f"--port={port}"]
    server = subprocess.Popen([*command, "--mode=specific-server", f"--address={gcs}"], stderr=subprocess.DEVNULL)
    program = f"""
import json, ray
from adiabatic_ray.sweep.cluster import nodes, ray_private
ray.init("ray://127.0.0.1:{port}")
print(json.dumps([ray_private.is_client(), str(nodes.now())]))
"""
    mode = {name: os.environ[name] for name in ("RAY_AUTH_MODE",) if name in os.environ}
    try:
        assert said(program, **mode) == [True, "the cluster has 1 node with 2 CPU"]
    finally:
        server.terminate()
        server.wait(30)
