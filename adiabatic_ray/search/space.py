"""The search space as Optuna's distributions, or as a grid."""

from __future__ import annotations

import itertools

import optuna
from optuna import distributions

from adiabatic_ray import config

Config = dict[str, config.Scalar]

optuna.logging.set_verbosity(optuna.logging.WARNING)


def to_distributions(search: config.Search) -> dict[str, distributions.BaseDistribution]:
    """One distribution for each hyper-parameter. A list of choices becomes a categorical one."""
    return {key: _distribution(key, choices) for key, choices in search.space.items()}


def _distribution(key: str, choices: config.Range | list[config.Scalar]) -> distributions.BaseDistribution:
    if isinstance(choices, list):
        return distributions.CategoricalDistribution(choices)
    if config.is_whole(key):
        step = int(choices.step or 1)
        return distributions.IntDistribution(int(choices.low), int(choices.high), log=choices.log, step=step)
    return distributions.FloatDistribution(choices.low, choices.high, log=choices.log, step=choices.step)


def grid(search: config.Search) -> list[Config]:
    """Every combination of the choices. The last hyper-parameter varies fastest."""
    keys = list(search.space)
    choices = [c for c in search.space.values() if isinstance(c, list)]
    assert len(choices) == len(keys), "a grid has no ranges"
    return [dict(zip(keys, combination, strict=True)) for combination in itertools.product(*choices)]


def size(search: config.Search) -> int | None:
    """How many different configurations there are; `None` where they cannot be counted."""
    count = 1
    for distribution in to_distributions(search).values():
        if isinstance(distribution, distributions.CategoricalDistribution):
            count *= len(distribution.choices)
        elif isinstance(distribution, distributions.IntDistribution):
            count *= (distribution.high - distribution.low) // distribution.step + 1
        elif isinstance(distribution, distributions.FloatDistribution) and distribution.step is not None:
            count *= round((distribution.high - distribution.low) / distribution.step) + 1
        else:
            return None
    return count


def masks(sweep: config.Sweep) -> list[str]:
    """The freezing masks that trials may have."""
    choices = sweep.search.space.get("freeze", [sweep.train.freeze])
    assert isinstance(choices, list)
    return [str(mask) for mask in choices]


def num_trials(sweep: config.Sweep) -> int:
    """The number of trials: what the budget allows, and at most one for each configuration."""
    return min(n for n in (size(sweep.search), sweep.budget.trials) if n is not None)


def describe_trials(sweep: config.Sweep) -> str:
    """How many trials there are, and how they are chosen."""
    how = "a grid" if sweep.search.method == "grid" else f"chosen by Optuna ({sweep.search.sampler})"
    return f"{num_trials(sweep)} trials, {how}"
