"""Clusters of several nodes on this machine: what is lost with a node, and a cluster that has none yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adiabatic_ray import sweep_file
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import TrialRecord
from adiabatic_ray.trials.store import TrialStore, exists
from tests import autoscaler, mlflow_server, ray_head
from tests.waiting import until

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs, and two nodes with one each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


HEAD = 51 * "f" + "00000"  # what Ray's provider of nodes on this machine calls the head


@pytest.fixture
def autoscaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head without CPUs, whose autoscaler adds up to two nodes with one each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    port = mlflow_server.free_port()
    address = f"127.0.0.1:{port}"
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    autoscaling = {
        "cluster_name": "autoscaled",
        "max_workers": 2,
        "provider": {
            "type": "external",
            "module": provider,
            "gcs_address": address,
            "head_node_id": HEAD,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "trials": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 2},
        },
        "head_node_type": "ray.head.default",
        **{f"{kind}_commands": [] for kind in ("setup", "head_setup", "worker_setup", "initialization")},
        **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
        **{"auth": {}, "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False},
    }
    settings = tmp_path / "autoscaling.json"
    settings.write_text(json.dumps(autoscaling))
    options = ["--num-cpus=0", "--include-dashboard=false", f"--autoscaling-config={settings}"]
    variables = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    }
    with ray_head.started(port, *options, variables=variables):
        autoscaler.report_groups(address, trials=2)
        yield address


def folder_of(path: Path) -> Path:
    """The folder of the sweep in a sweep file."""
    sweep = sweep_file.load(path)
    return StorageFolder.at(sweep.storage).sweep(sweep.name).path


def records(folder: Path) -> dict[int, TrialRecord]:
    return TrialStore(folder).records if exists(folder) else {}


def measured(folder: Path) -> set[int]:
    """The trials that have reached an evaluation point."""
    return {number for number, record in records(folder).items() if number and record.points}


class Started:
    """A sweep on a cluster, in a process of its own that writes to a log."""

    def __init__(self, file: Path, log: Path, **variables: str) -> None:
        command = [sys.executable, "-m", "adiabatic_ray", "sweep", str(file)]
        self._log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(command, env=os.environ | variables, stdout=out, stderr=subprocess.STDOUT)

    @property
    def printed(self) -> str:
        return self._log.read_text()

    def wait_until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait for a moment before the sweep's end."""

        def reached_alive() -> bool:
            assert self.process.poll() is None, self.printed
            return reached()

        until(reached_alive, what, seconds=180, pause=0.1)


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start a sweep on the cluster; it does not outlast the test."""
    started: list[Started] = []

    def start(file: Path, **variables: str) -> Started:
        started.append(Started(file, tmp_path / "log", RAY_ADDRESS=cluster.address, **variables))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_a_lost_node_is_not_its_trials_failure(
    cluster: Cluster, start: Callable[..., Started], write_sweep: Callable[..., Path]
) -> None:
    path = write_sweep(
        {
            "train.steps": 150,
            "train.evaluations": 3,
            "search.space.learning_rate": {"low": 1e-7, "high": 1e-4, "log": True},
            "budget.stop_harmful": False,
            "resources.concurrent_trials": 2,
        }
    )
    folder, sweep = folder_of(path), start(path)
    sweep.wait_until(lambda: {1, 2} <= measured(folder), "an evaluation of both trials")
    under_way = {number: records(folder)[number] for number in (1, 2)}
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    assert sweep.process.wait(timeout=400) == 0, sweep.printed
    assert "2 at a time" in sweep.printed
    ended = records(folder)
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert {record.state for record in ended.values()} == {"complete"}
    for number, record in under_way.items():  # the lost one went on from its checkpoint
        assert ended[number].points[: len(record.points)] == record.points
    assert len({str(sorted(record.config.items())) for record in ended.values()}) == 5


def test_a_lost_head_costs_no_finished_trial(
    cluster: Cluster, start: Callable[..., Started], write_sweep: Callable[..., Path]
) -> None:
    """Without its head a cluster is none. The sweep ends, and goes on on another one as if nothing had happened."""
    path = write_sweep(
        {
            # Ray's processes notice the loss after some seconds, and trial 2 must not be over by then.
            "train.steps": 900,
            "train.evaluations": 6,
            "search.space.learning_rate": {"low": 1e-7, "high": 1e-4, "log": True},
            "budget": {"trials": 3, "stop_harmful": False},
        }
    )
    folder = folder_of(path)
    # How long Ray's processes wait for a head to come back.
    sweep = start(path, RAY_gcs_rpc_server_reconnect_timeout_s="5")
    sweep.wait_until(lambda: 2 in measured(folder), "an evaluation of trial 2")
    cluster.head_node.kill_gcs_server(check_alive=False)
    assert sweep.process.wait(timeout=200) != 0, sweep.printed
    cut_off = records(folder)
    assert (cut_off[1].state, cut_off[2].state) == ("complete", "running")

    done = subprocess.run(
        [sys.executable, "-m", "adiabatic_ray", "sweep", str(path)],
        env=os.environ | {"RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after 1 finished trials" in done.stdout
    ended = records(folder)
    assert [record.state for _, record in sorted(ended.items())] == ["complete"] * 4
    assert ended[1].points == cut_off[1].points
    assert ended[2].points[: len(cut_off[2].points)] == cut_off[2].points
    assert len({str(sorted(record.config.items())) for record in ended.values()}) == 4


def test_a_sweep_waits_for_nodes_that_were_all_lost(
    cluster: Cluster, start: Callable[..., Started], write_sweep: Callable[..., Path]
) -> None:
    path = write_sweep(
        {
            "train.steps": 150,
            "train.evaluations": 3,
            "search.space.learning_rate": {"low": 1e-7, "high": 1e-4, "log": True},
            "budget.trials": 2,
            "resources.concurrent_trials": 2,
        }
    )
    folder, sweep = folder_of(path), start(path)
    sweep.wait_until(lambda: bool(measured(folder)), "an evaluation of any trial")
    for node in cluster.list_all_nodes()[1:]:
        cluster.remove_node(node, allow_graceful=False)
    said = "waiting for a node with 1 CPU free; the cluster has 1 node with 0 CPU\n"
    sweep.wait_until(lambda: said in sweep.printed, "the word that it waits for a node")
    cluster.add_node(num_cpus=1)
    assert sweep.process.wait(timeout=400) == 0, sweep.printed
    assert sweep.printed.count("waiting for") == 1
    assert [record.failed for record in records(folder).values()] == [False] * 3


def test_a_cluster_without_nodes_grows(autoscaled: str, write_sweep: Callable[..., Path]) -> None:
    path = write_sweep({"resources.concurrent_trials": None, "budget.stop_harmful": False})
    sweep, planned = (
        subprocess.run(
            [sys.executable, "-m", "adiabatic_ray", command, str(path)],
            env=os.environ | {"RAY_ADDRESS": autoscaled},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        for command in ("sweep", "validate")
    )
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    assert "4 trials, chosen by Optuna (gp), 2 at a time, each on 1 CPU;" in sweep.stdout
    waits = [line for line in sweep.stdout.splitlines() if line.startswith("waiting")]
    assert waits == [
        "waiting for a node with 1 CPU free; the cluster has 1 node with 0 CPU, and may grow by 2 nodes with 1 CPU"
    ]
    ended = records(folder_of(path))
    assert [record.state for record in ended.values()] == ["complete"] * 5
    assert "2 at a time, each on 1 CPU" in planned.stdout  # those that came are not counted once more
