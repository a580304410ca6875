"""A sweep starts without workers, and reads from its RayCluster how many there may be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adiabatic_ray import config
from adiabatic_ray.sweep.cluster import nodes, resources
from tests import kubernetes_api
from tests.k8s.rendering import WITH_RAY, cluster_spec, groups, ray_object

SCALED = [overlay for overlay in WITH_RAY if not overlay.startswith("kueue/")]
WHAT_IT_SEES = """
from adiabatic_ray.sweep.cluster import connection, nodes
with connection.connected():
    print(nodes.now())
"""


@pytest.mark.parametrize("overlay", SCALED)
def test_a_sweep_starts_without_workers_and_plans_on_all_that_may_come(overlay: str) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    manifest = ray_object(overlay)
    (_, workers) = groups(manifest)
    assert workers["minReplicas"] == workers["replicas"] == 0
    node_types = autoscaling_config._generate_available_node_types_from_ray_cr_spec(cluster_spec(manifest))
    kinds = nodes.kinds(node_types)
    cluster = nodes.Cluster([kinds["headgroup"].node], [kinds["trials"]])
    one = config.Resources(cpus_per_trial=2)
    assert resources.plan(one, cluster, trials=100).concurrent == workers["maxReplicas"]


@pytest.mark.parametrize("overlay", SCALED)
def test_the_head_says_which_cluster_it_is_of(overlay: str) -> None:
    head, _ = groups(ray_object(overlay))
    variables = {entry["name"]: entry for entry in head["template"]["spec"]["containers"][0]["env"]}
    fields = {name: variables[name]["valueFrom"]["fieldRef"]["fieldPath"] for name in variables if "CLUSTER_NA" in name}
    assert fields == {
        "RAY_CLUSTER_NAME": "metadata.labels['ray.io/cluster']",
        "RAY_CLUSTER_NAMESPACE": "metadata.namespace",
    }


@pytest.mark.slow
def test_a_head_reads_its_own_cluster(tmp_path: Path) -> None:
    cluster = ray_object("gpu/cluster")
    of_its_pod = {
        "RAY_CLUSTER_NAME": cluster["metadata"]["name"],
        "RAY_CLUSTER_NAMESPACE": cluster["metadata"]["namespace"],
    }
    with kubernetes_api.serving(cluster, tmp_path) as variables:
        assert "and may grow by 8 nodes with 4 CPU and 1 GPU" in seen(variables | of_its_pod)


@pytest.mark.slow
def test_a_cluster_that_cannot_be_read_does_not_grow() -> None:
    description = seen({"RAY_CLUSTER_NAME": "any", "RAY_CLUSTER_NAMESPACE": "any"})
    assert description.startswith("the cluster has 1 node with ")
    assert "grow" not in description


def seen(variables: dict[str, str]) -> str:
    """How a process with these variables describes its cluster."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | variables
    command = [sys.executable, "-c", WHAT_IT_SEES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
