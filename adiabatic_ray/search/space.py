"""The search space as Optuna's distributions, or as a grid."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import optuna
from optuna import distributions

from adiabatic_ray import config

Config = dict[str, config.Scalar]

GP_TRIALS = 100  # a Gaussian process needs the fewest trials, but its proposals take longer and longer
GP_VALUES = 10**6  # Optuna's Gaussian process lists all values of a range with steps in memory

# Its warnings tell of what it mends by itself, such as a process that could not be fitted, and nobody can act on them.
optuna.logging.set_verbosity(optuna.logging.ERROR)


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


def ranked(search: config.Search) -> dict[str, list[config.Scalar]]:
    """The lists of several numbers, in ascending order, by hyper-parameter."""
    return {
        key: sorted(choices)
        for key, choices in search.space.items()
        if isinstance(choices, list) and len(choices) > 1 and all(type(choice) in (int, float) for choice in choices)
    }


def at(distribution: distributions.BaseDistribution, share: float) -> config.Scalar:
    """The value that lies this share, from 0 up to but not including 1, of the way through a distribution."""
    if isinstance(distribution, distributions.FloatDistribution | distributions.IntDistribution) and distribution.log:
        value: float = min(distribution.low * (distribution.high / distribution.low) ** share, distribution.high)
        return round(value) if isinstance(distribution, distributions.IntDistribution) else value
    count = _count(distribution)
    if count is None:
        assert isinstance(distribution, distributions.FloatDistribution)
        return distribution.low + share * (distribution.high - distribution.low)
    return _nth(distribution, int(share * count))


def values(distribution: distributions.BaseDistribution) -> list[config.Scalar]:
    """All values of a distribution that has finitely many."""
    count = _count(distribution)
    assert count is not None
    return [_nth(distribution, index) for index in range(count)]


def _nth(distribution: distributions.BaseDistribution, index: int) -> config.Scalar:
    """The value with this index (0, 1, ...) in a distribution that has finitely many."""
    if isinstance(distribution, distributions.CategoricalDistribution):
        return distribution.choices[index]  # type: ignore[return-value]
    assert isinstance(distribution, distributions.FloatDistribution | distributions.IntDistribution)
    assert distribution.step is not None
    # 0.1 + 2 * 0.1 is more than 0.3, which Optuna would not take back.
    return min(distribution.low + index * distribution.step, distribution.high)


def grid(search: config.Search) -> list[Config]:
    """Every combination of the choices. The last hyper-parameter varies fastest."""
    keys = list(search.space)
    choices = [c for c in search.space.values() if isinstance(c, list)]
    assert len(choices) == len(keys), "a grid has no ranges"
    return [dict(zip(keys, combination, strict=True)) for combination in itertools.product(*choices)]


def size(search: config.Search) -> int | None:
    """How many different configurations there are; `None` where they cannot be counted."""
    counts = [_count(distribution) for distribution in to_distributions(search).values()]
    known = [count for count in counts if count is not None]
    return math.prod(known) if len(known) == len(counts) else None


def _count(distribution: distributions.BaseDistribution) -> int | None:
    if isinstance(distribution, distributions.CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, distributions.IntDistribution):
        return (distribution.high - distribution.low) // distribution.step + 1
    assert isinstance(distribution, distributions.FloatDistribution)
    if distribution.step is None:
        return None
    return round((distribution.high - distribution.low) / distribution.step) + 1


def sampler_name(search: config.Search, trials: int | None) -> Literal["gp", "tpe", "random"]:
    """Optuna's sampler for a budget of so many trials: the one that the settings name, or the one that `auto` means.

    `auto` is the Gaussian process up to `GP_TRIALS` trials, unless a range has more values than it can list (that of
    `seed`, say). Otherwise it is TPE.
    """
    if search.sampler != "auto":
        return search.sampler
    listed = all((_count(distribution) or 0) <= GP_VALUES for distribution in to_distributions(search).values())
    return "gp" if listed and trials is not None and trials <= GP_TRIALS else "tpe"


def masks(sweep: config.Sweep) -> list[str]:
    """The freezing masks that trials may have."""
    choices = sweep.search.space.get("freeze", [sweep.train.freeze])
    assert isinstance(choices, list)
    return [str(mask) for mask in choices]


def largest_rank(sweep: config.Sweep) -> int | None:
    """The largest rank that a displacement may have. `None` if displacements are full."""
    choices = sweep.search.space.get("rank")
    if choices is None:
        return sweep.train.rank
    return max(map(int, choices)) if isinstance(choices, list) else int(choices.high)


def num_trials(sweep: config.Sweep) -> int:
    """The number of trials: what the budget allows, and at most one for each configuration."""
    return min(n for n in (size(sweep.search), sweep.budget.trials) if n is not None)


def describe_trials(sweep: config.Sweep) -> str:
    """How many trials there are, and how they are chosen."""
    sampler = sampler_name(sweep.search, sweep.budget.trials)
    how = "a grid" if sweep.search.method == "grid" else f"chosen by Optuna ({sampler})"
    return f"{num_trials(sweep)} trials, {how}"
