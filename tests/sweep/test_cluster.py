"""Clusters of several nodes on this machine: what is lost with a node, and a cluster that has none yet."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adiabatic_ray import sweep_file
from adiabatic_ray.report.ledger import Ledger, Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
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
def autoscaled(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head without CPUs, whose autoscaler adds up to two nodes with one each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    session = Path(tempfile.mkdtemp(prefix="ray"))  # the paths of sockets must be short
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
    (session / "autoscaling.json").write_text(json.dumps(autoscaling))
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--block", "--num-cpus=0", "--disable-usage-stats", f"--temp-dir={session}"]
    command += ["--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    command += ["--dashboard-agent-listen-port=0", f"--autoscaling-config={session / 'autoscaling.json'}"]
    environment = os.environ | {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    }
    with (session / "start.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        report_groups(address, trials=2)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the nodes that the autoscaler added
        shutil.rmtree(session, ignore_errors=True)


def report_groups(address: str, trials: int) -> None:
    """Tell Ray what the cluster may grow to, as the autoscalers of managed clusters do and Ray's own does not."""
    import grpc
    from ray.core.generated import autoscaler_pb2, autoscaler_pb2_grpc

    group = autoscaler_pb2.NodeGroupConfig(name="trials", resources={"CPU": 1}, max_count=trials)
    cluster = autoscaler_pb2.ClusterConfig(node_group_configs=[group])
    with grpc.insecure_channel(address) as channel:
        stub = autoscaler_pb2_grpc.AutoscalerStateServiceStub(channel)
        request = autoscaler_pb2.ReportClusterConfigRequest(cluster_config=cluster)
        stub.ReportClusterConfig(request, wait_for_ready=True, timeout=60)


def records(folder: Path) -> dict[int, Record]:
    return Ledger(folder).records if (folder / "sweep.json").exists() else {}


def test_a_lost_node_is_not_its_trials_failure(cluster: Any, write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    path = write_sweep(
        {
            "train.steps": 150,
            "train.evaluations": 3,
            "search.space.learning_rate": {"low": 1e-7, "high": 1e-4, "log": True},
            "budget.stop_harmful": False,
            "resources.concurrent_trials": 2,
        }
    )
    folder = Path(sweep_file.load(path).storage) / "small"
    sweep = subprocess.Popen(
        [sys.executable, "-m", "adiabatic_ray", "sweep", str(path)],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not all(number in records(folder) and records(folder)[number].points for number in (1, 2)):
            assert sweep.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        under_way = {number: records(folder)[number] for number in (1, 2)}
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        assert sweep.wait(timeout=400) == 0, (tmp_path / "log").read_text()
    finally:
        sweep.kill()
    assert "2 at a time" in (tmp_path / "log").read_text()
    ended = records(folder)
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert {record.state for record in ended.values()} == {"complete"}
    for number, record in under_way.items():  # the lost one went on from its checkpoint
        assert ended[number].points[: len(record.points)] == record.points
    assert len({str(sorted(record.config.items())) for record in ended.values()}) == 5


def test_a_lost_head_costs_no_finished_trial(cluster: Any, write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    """Without its head a cluster is none. The sweep ends, and goes on on another one as if nothing had happened."""
    path = write_sweep(
        {
            "train.steps": 150,
            "train.evaluations": 3,
            "search.space.learning_rate": {"low": 1e-7, "high": 1e-4, "log": True},
            "budget": {"trials": 3, "stop_harmful": False},
        }
    )
    folder, log = Path(sweep_file.load(path).storage) / "small", tmp_path / "log"
    command = [sys.executable, "-m", "adiabatic_ray", "sweep", str(path)]
    # How long Ray's processes wait for a head to come back.
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    sweep = subprocess.Popen(command, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT, text=True)
    try:
        while not (2 in records(folder) and records(folder)[2].points):
            assert sweep.poll() is None, log.read_text()
            time.sleep(0.1)
        cluster.head_node.kill_gcs_server(check_alive=False)
        assert sweep.wait(timeout=200) != 0, log.read_text()
    finally:
        sweep.kill()
    cut_off = records(folder)
    assert (cut_off[1].state, cut_off[2].state) == ("complete", "running")

    done = subprocess.run(
        command, env=os.environ | {"RAY_ADDRESS": ""}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after 1 finished trials" in done.stdout
    ended = records(folder)
    assert [record.state for _, record in sorted(ended.items())] == ["complete"] * 4
    assert ended[1].points == cut_off[1].points
    assert ended[2].points[: len(cut_off[2].points)] == cut_off[2].points
    assert len({str(sorted(record.config.items())) for record in ended.values()}) == 4


def test_a_sweep_waits_for_nodes_that_were_all_lost(
    cluster: Any, write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_sweep(
        {"train.steps": 150, "train.evaluations": 3, "budget.trials": 2, "resources.concurrent_trials": 2}
    )
    folder, log = Path(sweep_file.load(path).storage) / "small", tmp_path / "log"
    sweep = subprocess.Popen(
        [sys.executable, "-m", "adiabatic_ray", "sweep", str(path)],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not any(records(folder)[number].points for number in records(folder) if number):
            assert sweep.poll() is None, log.read_text()
            time.sleep(0.1)
        for node in cluster.list_all_nodes()[1:]:
            cluster.remove_node(node, allow_graceful=False)
        said = "waiting for a node with 1 CPU free; the cluster has 1 node with 0 CPU\n"
        while said not in log.read_text():
            assert sweep.poll() is None, log.read_text()
            time.sleep(0.5)
        cluster.add_node(num_cpus=1)
        assert sweep.wait(timeout=400) == 0, log.read_text()
    finally:
        sweep.kill()
    assert log.read_text().count("waiting for") == 1
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
    assert "4 trials, chosen by Optuna (tpe), 2 at a time, each on 1 CPU;" in sweep.stdout
    waits = [line for line in sweep.stdout.splitlines() if line.startswith("waiting")]
    assert waits == [
        "waiting for a node with 1 CPU free; the cluster has 1 node with 0 CPU, and may grow by 2 nodes with 1 CPU"
    ]
    ended = records(Path(sweep_file.load(path).storage) / "small")
    assert [record.state for record in ended.values()] == ["complete"] * 5
    assert "2 at a time, each on 1 CPU" in planned.stdout  # those that came are not counted once more
