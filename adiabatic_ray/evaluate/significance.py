"""Paired tests between the untouched and a tuned encoder, and the constraint that no language is harmed.

A triplet is *broken* when tuning made it discordant, and *fixed* when tuning made it concordant.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from adiabatic_ray import config

SIGNIFICANT = 0.05  # a change is significant when its two-tailed p-value lies below this
ONE_SIDED_95 = NormalDist().inv_cdf(0.95)

Counts: TypeAlias = npt.NDArray[np.int64]
PValues: TypeAlias = npt.NDArray[np.float64]


@overload
def mcnemar(broken: int, fixed: int) -> float: ...
@overload
def mcnemar(broken: Counts, fixed: Counts) -> PValues: ...
def mcnemar(broken: int | Counts, fixed: int | Counts) -> float | PValues:
    """Two-tailed p-value of McNemar's exact test: breaking and fixing a triplet are equally likely.

    Two numbers give a float. Two arrays of the same shape, one cell a test, give an array of that shape. The p-value is
    1 where nothing changed.

    Source: McNemar 1947, in its exact form: a binomial test of `broken` in `broken + fixed` at one half.
    """
    tail = stats.binom.cdf(np.minimum(broken, fixed), broken + fixed, 0.5)
    p_value: PValues = np.minimum(1.0, 2.0 * tail)
    return p_value if p_value.ndim else float(p_value)


@dataclass(frozen=True)
class Violation:
    """The constraint of one encoder against the untouched one, and what it is made of.

    `value` is the constraint; the encoder is feasible when it is at most 0. `worst_z` is the largest degradation z of
    all guarded groups, and `worst` names its group (`comparison/query language/text language` at the level `pair`).
    `worst_z` must not exceed `critical_z`. `degradation` is the overall increase of discordant triplets, in percent of
    the base's; `lower` and `upper` are its one-sided 95% bounds. `harmful` says that harm is already certain: `worst_z`
    exceeds `critical_z`, or `lower` exceeds the margin.
    """

    value: float
    worst_z: float
    critical_z: float
    worst: str
    degradation: float
    lower: float
    upper: float
    harmful: bool

    @property
    def feasible(self) -> bool:
        return self.value <= 0


def violation(
    base: Tensor, tuned: Tensor, names: tuple[list[str], list[str]], settings: config.Constraint
) -> Violation:
    """The constraint over outcomes `[n, comparison, query language, text language]` (bool) of both encoders.

    `names` are those of the comparisons and of the languages. The value is the larger of two relative violations:

    (a) nowhere significantly worse: `(worst z - critical z) / critical z`, where the critical value is the two-tailed
        one at `alpha`, Bonferroni-corrected over all groups that `level` guards: each pair of languages in each
        comparison (`pair`), each query language (`language`), or everything at once (`overall`);
    (b) overall not worse by more than the margin: `(upper bound - margin) / margin`.

    A premise appears in every pair of languages, so its outcomes are not independent. Let `s_i` be the sum of (broken -
    fixed) over the outcomes of premise `i` in a group. The group's z is `sum s_i / sqrt(sum s_i^2)`; for a single pair
    this is McNemar's `(b - c) / sqrt(b + c)`. The variance of the overall degradation is `sum (s_i - mean)^2`.
    """
    change = tuned.double() - base.double()  # +1 broken, -1 fixed
    z = _degradation_z(groups(change, settings.level))
    critical = critical_z(settings.alpha, len(z))
    worst = int(z.argmax())
    worst_z = float(z[worst])
    degradation, lower, upper = _overall_degradation(change, base)
    return Violation(
        value=max((worst_z - critical) / critical, (upper - settings.margin) / settings.margin),
        worst_z=worst_z,
        critical_z=critical,
        worst=_labels(names, settings.level)[worst],
        degradation=degradation,
        lower=lower,
        upper=upper,
        harmful=worst_z > critical or lower > settings.margin,
    )


def critical_z(alpha: float, tests: int) -> float:
    """The two-tailed critical value at `alpha`, Bonferroni-corrected for this number of tests."""
    return NormalDist().inv_cdf(1 - alpha / (2 * tests))


def groups(change: Tensor, level: str) -> Tensor:
    """Sum each premise's changes `[n, comparison, language, language]` within the groups of `level`: `[n, groups]`."""
    if level == "overall":
        return change.flatten(1).sum(1, keepdim=True)
    return change.sum((1, 3)) if level == "language" else change.flatten(1)


def _degradation_z(grouped: Tensor) -> Tensor:
    """The z of each group's degradation, from the sums `[n, groups]`; 0 where nothing changed."""
    variance = grouped.square().sum(0)
    return torch.where(variance > 0, grouped.sum(0) / variance.clamp(min=1).sqrt(), 0.0)


def _overall_degradation(change: Tensor, base: Tensor) -> tuple[float, float, float]:
    """The degradation over all outcomes with its lower and its upper bound, in percent of the base's discordance."""
    per_premise = change.flatten(1).sum(1)
    half_width = ONE_SIDED_95 * float((per_premise - per_premise.mean()).square().sum().sqrt())
    total, discordant = float(per_premise.sum()), max(1.0, float(base.sum()))
    lower, upper = 100 * (total - half_width) / discordant, 100 * (total + half_width) / discordant
    return 100 * total / discordant, lower, upper


def _labels(names: tuple[list[str], list[str]], level: str) -> list[str]:
    comparisons, languages = names
    if level == "overall":
        return ["overall"]
    if level == "language":
        return languages
    return [f"{c}/{x}/{y}" for c in comparisons for x in languages for y in languages]
