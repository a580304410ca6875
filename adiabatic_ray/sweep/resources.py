"""How many trials run at once: what one is given against what the cluster has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
import torch

from adiabatic_ray import config, errors
from adiabatic_ray.sweep import session

Node = Mapping[str, float]  # resources of a node by Ray's names


@dataclass(frozen=True)
class Plan:
    """CPUs and GPUs of one trial, and how many trials run at once."""

    cpus: float
    gpus: float
    concurrent: int
    workers: int  # processes of one trial, which share its CPUs and GPUs
    fitting: int  # trials that would fit at once
    filling_cpus: float  # of a task that runs while no trial does

    def __str__(self) -> str:
        share = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        processes = f" in {self.workers} processes" if self.workers > 1 else ""
        return f"{self.concurrent} at a time, each on {share}{processes}"


def alive() -> list[Node]:
    """The nodes of the cluster that this process is connected to."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def reachable() -> list[Node]:
    """The nodes of the cluster that RAY_ADDRESS names, else this machine; nothing is started."""
    if "RAY_ADDRESS" in os.environ:
        with session.connected():
            return alive()
    return [{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}]


def plan(wanted: config.Resources, nodes: Sequence[Node]) -> Plan:
    """Fit trials onto nodes; each trial lies on one node.

    Raises:
        ResourceError: no node can hold a single trial.
    """
    any_gpu = any(node.get("GPU", 0) for node in nodes)
    workers = wanted.workers_per_trial
    gpus = workers * (wanted.gpus_per_trial if wanted.gpus_per_trial is not None else float(any_gpu))
    cpus = workers * wanted.cpus_per_trial
    fitting = sum(_fit(node, cpus, gpus) for node in nodes)
    if fitting == 0:
        raise errors.ResourceError(
            f"no node can hold a trial, which needs {cpus:g} CPU and {gpus:g} GPU (`resources`). The cluster has "
            + ("; ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes) or "no nodes")
            + ", a node each."
        )
    concurrent = fitting if wanted.concurrent_trials is None else min(wanted.concurrent_trials, fitting)
    largest = max(node.get("CPU", 0) for node in nodes)
    return Plan(cpus, gpus, concurrent, workers, fitting, filling_cpus=cpus if gpus else largest)


def _fit(node: Node, cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) / cpus)
    if not gpus:
        return by_cpu
    # A share of a GPU is of one GPU: two trials of 0.6 do not fit on one, and three not on two.
    on_node = int(node.get("GPU", 0))
    return min(by_cpu, on_node * int(1 / gpus) if gpus < 1 else on_node // int(gpus))
