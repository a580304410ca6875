"""The search space as Optuna's distributions, as a grid, and in words."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest

from adiabatic_ray import config
from adiabatic_ray.search import space
from tests.sweeps import MINIMAL, minimal

FINITE: dict[str, Any] = {"batch_size": [8, 14], "freeze": ["none", "embeddings", "layer.0"]}
RATE = config.Range(low=1e-8, high=1e-6, log=True)


def search(chosen: dict[str, Any], **changes: Any) -> config.Search:
    return config.Search(objective="questions", space=chosen, **changes)


def test_distributions_follow_the_types_of_the_train_section() -> None:
    chosen = {
        "learning_rate": RATE,
        "steps": config.Range(low=100, high=500, step=100),
        "batch_size": config.Range(low=8, high=64, log=True),
        "margin": config.Range(low=0.1, high=0.3, step=0.05),
        "dropout": [True, False],
    }
    assert space.to_distributions(search(chosen)) == {
        "learning_rate": optuna.distributions.FloatDistribution(1e-8, 1e-6, log=True),
        "steps": optuna.distributions.IntDistribution(100, 500, step=100),
        "batch_size": optuna.distributions.IntDistribution(8, 64, log=True),
        "margin": optuna.distributions.FloatDistribution(0.1, 0.3, step=0.05),
        "dropout": optuna.distributions.CategoricalDistribution([True, False]),
    }


@pytest.mark.parametrize(
    ("added", "size"),
    [
        ({}, 6),
        ({"steps": config.Range(low=10, high=50, step=20)}, 18),
        ({"steps": config.Range(low=10, high=13)}, 24),
        ({"margin": config.Range(low=0.1, high=0.3, step=0.05)}, 30),
        ({"margin": config.Range(low=0.1, high=0.3)}, None),
        ({"learning_rate": RATE}, None),
    ],
)
def test_size_of_a_space(added: dict[str, Any], size: int | None) -> None:
    assert space.size(search(FINITE | added)) == size


def test_lists_of_numbers_have_ranks() -> None:
    chosen: dict[str, Any] = FINITE | {
        "dropout": [True, False],
        "margin": [0.3, 0.1],
        "steps": [10],
        "batch_size": [16, 8, 32],
    }
    assert space.ranked(search(chosen)) == {"margin": [0.1, 0.3], "batch_size": [8, 16, 32]}


@pytest.mark.parametrize(
    ("values", "shares", "expected"),
    [
        (config.Range(low=0.1, high=0.3), [0, 0.5, 0.999], [0.1, 0.2, 0.2998]),
        (config.Range(low=1e-8, high=1e-4, log=True), [0, 0.5, 0.75], [1e-8, 1e-6, 1e-5]),
        (config.Range(low=0.1, high=0.3, step=0.1), [0, 0.4, 0.999], [0.1, 0.2, 0.3]),
    ],
)
def test_the_value_at_a_share_of_a_range(values: config.Range, shares: list[float], expected: list[float]) -> None:
    distribution = space.to_distributions(search({"margin": values}))["margin"]
    assert [space.at(distribution, share) for share in shares] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "shares", "expected"),
    [
        (config.Range(low=8, high=11), [0, 0.3, 0.6, 0.999], [8, 9, 10, 11]),
        (config.Range(low=100, high=500, step=200), [0, 0.5, 0.999], [100, 300, 500]),
        (config.Range(low=8, high=128, log=True), [0, 0.5, 0.999], [8, 32, 128]),
        ([64, 8, 16], [0, 0.34, 0.999], [64, 8, 16]),
    ],
)
def test_a_whole_number_at_a_share_of_its_values(values: Any, shares: list[float], expected: list[int]) -> None:
    distribution = space.to_distributions(search({"batch_size": values}))["batch_size"]
    chosen = [space.at(distribution, share) for share in shares]
    assert chosen == expected
    assert all(type(one) is int for one in chosen)


def test_a_grid_is_every_combination_once() -> None:
    chosen = FINITE | {"dropout": [True, False]}
    grid = space.grid(search(chosen, method="grid"))
    assert len(grid) == math.prod(len(choices) for choices in chosen.values())
    assert grid[:3] == [
        {"batch_size": 8, "freeze": "none", "dropout": True},
        {"batch_size": 8, "freeze": "none", "dropout": False},
        {"batch_size": 8, "freeze": "embeddings", "dropout": True},
    ]
    assert len({tuple(choice.items()) for choice in grid}) == len(grid)


def test_masks_are_those_of_the_space_or_the_one_of_the_train_section() -> None:
    assert space.masks(MINIMAL) == ["none", "embeddings"]
    assert space.masks(minimal(search=search({"learning_rate": [1e-8]}, method="grid"))) == ["embeddings"]


@pytest.mark.parametrize(
    ("chosen", "method", "trials", "count", "how"),
    [
        (FINITE, "grid", None, 6, "6 trials, a grid"),
        (FINITE, "grid", 4, 4, "4 trials, a grid"),
        (FINITE, "optuna", 9, 6, "6 trials, chosen by Optuna (gp)"),
        ({"learning_rate": RATE}, "optuna", 9, 9, "9 trials, chosen by Optuna (gp)"),
        ({"learning_rate": RATE}, "optuna", 101, 101, "101 trials, chosen by Optuna (tpe)"),
    ],
)
def test_trials_are_bounded_by_the_budget_and_the_space(
    chosen: dict[str, Any], method: str, trials: int | None, count: int, how: str
) -> None:
    sweep = minimal(search=search(chosen, method=method), budget=config.Budget(trials=trials))
    assert space.num_trials(sweep) == count
    assert space.describe_trials(sweep) == how


def test_the_sampler_follows_the_budget_and_what_optunas_gaussian_process_can_list() -> None:
    rates, seeds = search({"learning_rate": RATE}), search({"seed": config.Range(low=0, high=2**31)})
    assert [space.sampler_name(rates, trials) for trials in (1, 100, 101, None)] == ["gp", "gp", "tpe", "tpe"]
    assert space.sampler_name(seeds, 10) == "tpe"
    assert space.sampler_name(search({"learning_rate": RATE}, sampler="random"), 10) == "random"
