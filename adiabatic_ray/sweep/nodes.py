"""A cluster's nodes: those that are alive, and those that its autoscaler may add."""

from __future__ import annotations

import collections
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch

from adiabatic_ray import errors
from adiabatic_ray.sweep import session

Node = Mapping[str, float]  # resources of a node by Ray's names


@dataclass(frozen=True)
class Group:
    """Nodes of one kind that the autoscaler may add."""

    node: Node
    more: float  # than are alive; infinite where the cluster sets no limit


@dataclass(frozen=True)
class Cluster:
    """What there is, and what may come."""

    nodes: Sequence[Node]
    groups: Sequence[Group] = ()

    def __str__(self) -> str:
        has = collections.Counter(map(shape, self.nodes))
        text = f"the cluster has {_listed(has.items())}"
        if not self.groups:
            return text
        return f"{text}, and may grow by {_listed((shape(group.node), group.more) for group in self.groups)}"


def now() -> Cluster:
    """The cluster that this process is connected to."""
    return Cluster([node["Resources"] for node in ray.nodes() if node["Alive"]], list(_groups()))


def reachable() -> Cluster:
    """The cluster that RAY_ADDRESS names, else this machine; nothing is started."""
    if "RAY_ADDRESS" in os.environ:
        with session.connected():
            return now()
    return Cluster([{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}])


def shape(node: Node) -> str:
    """What counts for a trial, in words."""
    gpus = node.get("GPU", 0)
    return f"{node.get('CPU', 0):g} CPU" + (f" and {gpus:g} GPU" if gpus else "")


def kinds(node_types: Mapping[str, Mapping[str, Any]]) -> dict[str, Group]:
    """The kinds of nodes in an autoscaler's configuration, each with as many nodes as there may be in all."""
    return {name: Group(kind["resources"], kind["max_workers"]) for name, kind in node_types.items()}


def _groups() -> Iterator[Group]:
    if ray.util.client.ray.is_connected():  # through Ray's client nothing is seen but the nodes
        return
    known = _reported() or _of_kuberay()
    if not known:
        return
    from ray.autoscaler.v2 import sdk
    from ray.core.generated import autoscaler_pb2

    state = sdk.get_cluster_resource_state(ray._private.worker.global_worker.gcs_client)
    dead = autoscaler_pb2.NodeStatus.DEAD
    alive = collections.Counter(node.ray_node_type_name for node in state.node_states if node.status != dead)
    for name, kind in known.items():
        if kind.more > alive[name]:
            yield Group(kind.node, kind.more - alive[name])


def _reported() -> dict[str, Group]:
    """What a managed cluster's autoscaler told Ray; Ray's own tells nothing."""
    reported = ray._private.state.state.get_cluster_config()
    if reported is None:
        return {}
    return {
        group.name: Group(dict(group.resources), math.inf if group.max_count < 0 else group.max_count)
        for group in reported.node_group_configs
    }


def _of_kuberay() -> dict[str, Group]:
    """What the RayCluster says whose head this process runs on, read as the autoscaler beside it does."""
    if "RAY_CLUSTER_NAMESPACE" not in os.environ:
        return {}
    from ray.autoscaler._private.kuberay import autoscaling_config

    name, namespace = os.environ["RAY_CLUSTER_NAME"], os.environ["RAY_CLUSTER_NAMESPACE"]
    try:
        return kinds(autoscaling_config.AutoscalingConfigProducer(name, namespace)()["available_node_types"])
    except OSError as error:
        # Without an account, or with one that may not look, nothing scales. Anything else may pass.
        answer = getattr(error, "response", None)
        if not isinstance(error, FileNotFoundError) and getattr(answer, "status_code", 0) not in (401, 403):
            print(
                f"cannot read the RayCluster {name} ({errors.summary(error)}), so only nodes that are up are counted",
                file=sys.stderr,
            )
        return {}


def _listed(counts: Iterable[tuple[str, float]]) -> str:
    def words(count: float) -> str:
        return "any number of nodes" if math.isinf(count) else "1 node" if count == 1 else f"{count:g} nodes"

    return ", ".join(f"{words(count)} with {described}" for described, count in counts) or "no nodes"
