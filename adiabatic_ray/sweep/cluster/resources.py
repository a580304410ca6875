"""Plans how many trials run at once, from a trial's resources and the nodes that the cluster has or may add."""

from __future__ import annotations

from dataclasses import dataclass

from adiabatic_ray import config, errors
from adiabatic_ray.sweep.cluster import nodes


@dataclass(frozen=True)
class Plan:
    """CPUs and GPUs of one trial, and how many trials run at once."""

    cpus: float
    gpus: float
    concurrent: int
    workers: int  # processes of one trial, which share its CPUs and GPUs
    fitting: int  # trials that would fit at once
    filling_cpus: float  # CPUs of a task that runs while no trial does, such as filling the cache

    @property
    def trial(self) -> nodes.Node:
        """The resources of a trial on its node."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    def __str__(self) -> str:
        processes = f" in {self.workers} processes" if self.workers > 1 else ""
        return f"{self.concurrent} at a time, each on {nodes.shape(self.trial)}{processes}"


def plan(wanted: config.Resources, cluster: nodes.Cluster, trials: int) -> Plan:
    """Fit up to `trials` trials on the nodes that are alive and those that may be added. Each trial runs on one node.

    Raises:
        ResourceError: no node can hold a single trial.
    """
    kinds = [*cluster.nodes, *(group.node for group in cluster.groups)]
    any_gpu = any(node.get("GPU", 0) for node in kinds)
    workers = wanted.workers_per_trial
    gpus = workers * (wanted.gpus_per_trial if wanted.gpus_per_trial is not None else float(any_gpu))
    cpus = workers * wanted.cpus_per_trial
    there = [node for node in cluster.nodes if _fit(node, cpus, gpus)]
    coming = [group for group in cluster.groups if _fit(group.node, cpus, gpus)]
    if not there and not coming:
        raise errors.ResourceError(f"{_missing(cpus, gpus, kinds)}; {cluster}.")
    fitting = sum(_fit(node, cpus, gpus) for node in there)
    # A group without a limit needs no more nodes than there are trials.
    fitting += sum(int(min(group.more, trials)) * _fit(group.node, cpus, gpus) for group in coming)
    concurrent = min(fitting, trials, wanted.concurrent_trials or fitting)
    largest = max(node["CPU"] for node in there or [group.node for group in coming])
    return Plan(cpus, gpus, concurrent, workers, fitting, filling_cpus=cpus if gpus else largest)


def _fit(node: nodes.Node, cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) / cpus)
    if not gpus:
        return by_cpu
    # A trial's share is on a single GPU: two trials of 0.6 do not fit on one GPU, nor three on two.
    on_node = int(node.get("GPU", 0))
    return min(by_cpu, on_node * int(1 / gpus) if gpus < 1 else on_node // int(gpus))


def _missing(cpus: float, gpus: float, kinds: list[nodes.Node]) -> str:
    """A sentence that says what the closest node lacks."""

    def lacks(node: nodes.Node) -> tuple[float, float]:
        return max(0.0, gpus - node.get("GPU", 0)), max(0.0, cpus - node.get("CPU", 0))

    text = f"no node can hold a trial, which needs {cpus:g} CPU and {gpus:g} GPU (`resources`)"
    if not kinds:
        return text
    closest = min(kinds, key=lacks)
    lacking = zip(lacks(closest), ("GPU", "CPU"), strict=True)
    missing = " and ".join(f"{count:g} {name}" for count, name in lacking if count)
    return f"{text}. The closest has {nodes.shape(closest)} and lacks {missing}"
