"""A cluster of several nodes on this machine: what is lost with one of them, and what is not."""

from __future__ import annotations

import os
import subprocess
import sys
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
