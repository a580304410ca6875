"""How many trials fit, on nodes as they come and on those that may come."""

from __future__ import annotations

import math
from typing import Any

import pytest

from adiabatic_ray import config, errors
from adiabatic_ray.sweep.cluster.nodes import Cluster, Group, Node
from adiabatic_ray.sweep.cluster.resources import plan

LAPTOP = Cluster([{"CPU": 8.0}])
GPU_NODES = Cluster([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 3.0, "GPU": 4.0}, {"CPU": 32.0}])
HEAD: Node = {"memory": 1e9}  # offers no CPU
GPU_NODE: Node = {"CPU": 4.0, "GPU": 1.0}
FROM_ZERO = Cluster([HEAD], [Group(GPU_NODE, 8)])
GROWING = Cluster([HEAD, GPU_NODE, GPU_NODE], [Group(GPU_NODE, 6), Group({"CPU": 2.0}, 10)])
BOUNDLESS = Cluster([HEAD, GPU_NODE], [Group(GPU_NODE, math.inf)])


@pytest.mark.parametrize(
    ("wanted", "cluster", "expected"),
    [
        ({}, LAPTOP, (1.0, 0.0, 8)),
        ({"cpus_per_trial": 3.0}, LAPTOP, (3.0, 0.0, 2)),
        ({"cpus_per_trial": 0.5, "concurrent_trials": 3}, LAPTOP, (0.5, 0.0, 3)),
        ({}, GPU_NODES, (1.0, 1.0, 7)),  # a GPU each where there is one; 4 by GPUs, and 3 by CPUs
        ({"gpus_per_trial": 0.5}, GPU_NODES, (1.0, 0.5, 11)),  # 8 by GPUs, and 3 by CPUs
        ({"gpus_per_trial": 0.6}, GPU_NODES, (1.0, 0.6, 7)),  # two shares of 0.6 do not fit on one GPU
        ({"gpus_per_trial": 0.0}, GPU_NODES, (1.0, 0.0, 51)),
        ({"concurrent_trials": 99}, LAPTOP, (1.0, 0.0, 8)),
        ({}, FROM_ZERO, (1.0, 1.0, 8)),  # a GPU each where one may come
        ({"gpus_per_trial": 0.25}, FROM_ZERO, (1.0, 0.25, 32)),
        ({"concurrent_trials": 3}, FROM_ZERO, (1.0, 1.0, 3)),
        ({}, GROWING, (1.0, 1.0, 8)),  # the nodes without a GPU hold no trial
        ({"gpus_per_trial": 0.0}, GROWING, (1.0, 0.0, 52)),
        ({}, BOUNDLESS, (1.0, 1.0, 60)),  # as many as there are trials
        ({"concurrent_trials": 5}, BOUNDLESS, (1.0, 1.0, 5)),
        ({"cpus_per_trial": 8.0}, Cluster([HEAD], [Group(GPU_NODE, 8), Group({"CPU": 8.0, "GPU": 1.0}, 2)]), (8, 1, 2)),
    ],
)
def test_trials_that_fit(wanted: dict[str, Any], cluster: Cluster, expected: tuple[Any, ...]) -> None:
    planned = plan(config.Resources(**wanted), cluster, trials=60)
    assert (planned.cpus, planned.gpus, planned.concurrent) == expected


def test_no_more_at_once_than_there_are_trials() -> None:
    assert plan(config.Resources(), LAPTOP, trials=3).concurrent == 3


@pytest.mark.parametrize(
    ("wanted", "cluster", "missing"),
    [
        (
            {"gpus_per_trial": 1.0},
            LAPTOP,
            "The closest has 8 CPU and lacks 1 GPU; the cluster has 1 node with 8 CPU.",
        ),
        ({"cpus_per_trial": 9.0}, LAPTOP, "The closest has 8 CPU and lacks 1 CPU"),
        ({"cpus_per_trial": 33.0}, GPU_NODES, "The closest has 16 CPU and 4 GPU and lacks 17 CPU"),
        ({"workers_per_trial": 8}, GPU_NODES, "The closest has 16 CPU and 4 GPU and lacks 4 GPU"),
        ({"cpus_per_trial": 6.0}, FROM_ZERO, "The closest has 4 CPU and 1 GPU and lacks 2 CPU"),
        ({"cpus_per_trial": 6.0}, FROM_ZERO, "has 1 node with 0 CPU, and may grow by 8 nodes with 4 CPU and 1 GPU."),
        ({"cpus_per_trial": 6.0}, BOUNDLESS, "may grow by any number of nodes with 4 CPU and 1 GPU."),
        ({"gpus_per_trial": 0.5}, Cluster([HEAD]), "The closest has 0 CPU and lacks 0.5 GPU and 1 CPU"),
        ({}, Cluster([]), "which needs 1 CPU and 0 GPU (`resources`); the cluster has no nodes."),
    ],
)
def test_trials_that_fit_nowhere(wanted: dict[str, Any], cluster: Cluster, missing: str) -> None:
    with pytest.raises(errors.ResourceError, match=r"no node can hold a trial, which needs ") as caught:
        plan(config.Resources(**wanted), cluster, trials=60)
    assert missing in str(caught.value)


def test_the_cache_is_filled_with_what_lies_idle() -> None:
    assert plan(config.Resources(), LAPTOP, 60).filling_cpus == 8
    assert plan(config.Resources(), GPU_NODES, 60).filling_cpus == 1
    # Nobody waits for a larger node while there is one that does.
    assert plan(config.Resources(), Cluster([HEAD, {"CPU": 2.0}], [Group({"CPU": 8.0}, 1)]), 60).filling_cpus == 2
    assert plan(config.Resources(), Cluster([HEAD], [Group({"CPU": 8.0}, 1)]), 60).filling_cpus == 8


def test_a_plan_in_words() -> None:
    one = plan(config.Resources(cpus_per_trial=2, gpus_per_trial=0.5), GPU_NODES, trials=60)
    assert (str(one), one.trial) == ("9 at a time, each on 2 CPU and 0.5 GPU", {"CPU": 2.0, "GPU": 0.5})
    several = plan(config.Resources(workers_per_trial=2), LAPTOP, trials=60)
    assert (str(several), several.trial) == ("4 at a time, each on 2 CPU in 2 processes", {"CPU": 2.0})
