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
from adiabatic_ray.sweep.cluster import connection, ray_private

Node = Mapping[str, float]  # resources of a node by Ray's names


@dataclass(frozen=True)
class Group:
    """Nodes of one kind that the autoscaler may add."""

    node: Node
    more: float  # how many more than are alive; infinite if the cluster sets no limit


@dataclass(frozen=True)
class Cluster:
    """The nodes that are alive, and the groups of nodes that the autoscaler may add."""

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
    """The cluster that RAY_ADDRESS names, or else this machine. Nothing is started.

    Raises:
        ResourceError: no cluster answers at RAY_ADDRESS.
    """
    if "RAY_ADDRESS" in os.environ:
        with connection.connected():
            return now()
    return Cluster([{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}])


def shape(node: Node) -> str:
    """A node's CPUs and GPUs in words."""
    gpus = node.get("GPU", 0)
    return f"{node.get('CPU', 0):g} CPU" + (f" and {gpus:g} GPU" if gpus else "")


def kinds(node_types: Mapping[str, Mapping[str, Any]]) -> dict[str, Group]:
    """The kinds of nodes in an autoscaler's configuration, by name. `more` is how many there may be in all."""
    return {name: Group(kind["resources"], kind["max_workers"]) for name, kind in node_types.items()}


def _groups() -> Iterator[Group]:
    if ray_private.is_client():  # Ray's client cannot see the groups
        return
    known = _reported() or _of_kuberay()
    if not known:
        return
    alive = ray_private.nodes_alive()
    for name, kind in known.items():
        if kind.more > alive[name]:
            yield Group(kind.node, kind.more - alive[name])


def _reported() -> dict[str, Group]:
    return {name: Group(*group) for name, group in ray_private.node_groups().items()}


def _of_kuberay() -> dict[str, Group]:
    """The groups of the RayCluster that this process runs in, as Kubernetes has them."""
    if "RAY_CLUSTER_NAMESPACE" not in os.environ:
        return {}
    name, namespace = os.environ["RAY_CLUSTER_NAME"], os.environ["RAY_CLUSTER_NAMESPACE"]
    try:
        return kinds(ray_private.kuberay_node_types(name, namespace))
    except OSError as error:
        # Without a service account, or the right to read, there is no autoscaler. Other errors may be temporary.
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
