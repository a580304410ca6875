"""How many trials fit, on nodes as they come."""

from __future__ import annotations

from typing import Any

import pytest

from adiabatic_ray import config, errors
from adiabatic_ray.sweep.resources import plan

LAPTOP = [{"CPU": 8.0}]
GPU_NODES = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 3.0, "GPU": 4.0}, {"CPU": 32.0}]


@pytest.mark.parametrize(
    ("wanted", "nodes", "expected"),
    [
        ({}, LAPTOP, (1.0, 0.0, 8)),
        ({"cpus_per_trial": 3.0}, LAPTOP, (3.0, 0.0, 2)),
        ({"cpus_per_trial": 0.5, "concurrent_trials": 3}, LAPTOP, (0.5, 0.0, 3)),
        ({}, GPU_NODES, (1.0, 1.0, 7)),  # a GPU each where there is one; 4 by GPUs, and 3 by CPUs
        ({"gpus_per_trial": 0.5}, GPU_NODES, (1.0, 0.5, 11)),  # 8 by GPUs, and 3 by CPUs
        ({"gpus_per_trial": 0.6}, GPU_NODES, (1.0, 0.6, 7)),  # two shares of 0.6 do not fit on one GPU
        ({"gpus_per_trial": 0.0}, GPU_NODES, (1.0, 0.0, 51)),
        ({"concurrent_trials": 99}, LAPTOP, (1.0, 0.0, 8)),
    ],
)
def test_trials_that_fit(wanted: dict[str, Any], nodes: list[dict[str, float]], expected: tuple[Any, ...]) -> None:
    found = plan(config.Resources(**wanted), nodes)
    assert (found.cpus, found.gpus, found.concurrent) == expected


@pytest.mark.parametrize(
    ("wanted", "nodes"),
    [({"gpus_per_trial": 1.0}, LAPTOP), ({"cpus_per_trial": 9.0}, LAPTOP), ({"cpus_per_trial": 33.0}, GPU_NODES)],
)
def test_trials_that_fit_nowhere(wanted: dict[str, Any], nodes: list[dict[str, float]]) -> None:
    with pytest.raises(errors.ResourceError, match=r"no node can hold a trial, which needs .* The cluster has \d+ CPU"):
        plan(config.Resources(**wanted), nodes)


def test_the_cache_is_filled_with_what_lies_idle() -> None:
    assert plan(config.Resources(), LAPTOP).filling_cpus == 8
    assert plan(config.Resources(), GPU_NODES).filling_cpus == 1
