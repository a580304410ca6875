"""The nodes that are there, and those that may come."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pytest
import torch

from adiabatic_ray.sweep.cluster import nodes
from adiabatic_ray.sweep.cluster.nodes import Cluster, Group
from tests import autoscaler

SMALL, LARGE = {"CPU": 4.0, "memory": 1e9}, {"CPU": 16.0, "GPU": 4.0}


@pytest.fixture
def gcs(ray_cluster: None) -> Iterator[str]:  # noqa: ARG001
    """The address of the shared Ray's state, which forgets afterwards what an autoscaler told it."""
    import ray

    address = ray.get_runtime_context().gcs_address
    yield address
    autoscaler.report_groups(address)


@pytest.mark.parametrize(
    ("cluster", "described"),
    [
        (Cluster([]), "the cluster has no nodes"),
        (Cluster([SMALL]), "the cluster has 1 node with 4 CPU"),
        (Cluster([SMALL, LARGE, SMALL]), "the cluster has 2 nodes with 4 CPU, 1 node with 16 CPU and 4 GPU"),
        (
            Cluster([{}], [Group(LARGE, 1), Group(SMALL, math.inf)]),
            "the cluster has 1 node with 0 CPU, and may grow by 1 node with 16 CPU and 4 GPU, "
            "any number of nodes with 4 CPU",
        ),
    ],
)
def test_a_cluster_in_words(cluster: Cluster, described: str) -> None:
    assert str(cluster) == described


def test_kinds_of_an_autoscalers_configuration() -> None:
    types = {"head": {"resources": {"CPU": 0}, "max_workers": 0}, "trials": {"resources": LARGE, "max_workers": 8}}
    assert nodes.kinds(types) == {"head": Group({"CPU": 0}, 0), "trials": Group(LARGE, 8)}


def test_without_an_address_this_machine_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (here,) = nodes.reachable().nodes
    assert here == {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def test_the_cluster_of_this_process(gcs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", gcs)
    for cluster in (nodes.now(), nodes.reachable()):
        assert str(cluster) == "the cluster has 1 node with 2 CPU"
        assert cluster.groups == []
    autoscaler.report_groups(gcs, trials=3, many=-1)
    assert nodes.now().groups == [Group({"CPU": 1.0}, 3), Group({"CPU": 1.0}, math.inf)]


@pytest.mark.usefixtures("gcs")
def test_a_pod_that_may_not_look_sees_no_growth(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "team")
    monkeypatch.setenv("RAY_CLUSTER_NAME", "search")
    assert nodes.now().groups == []  # it has no account with Kubernetes, so nothing is said of it
    assert capfd.readouterr().err == ""
