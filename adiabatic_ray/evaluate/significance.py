"""Paired tests between the untouched and a tuned encoder, and the constraint that no language is harmed.

Throughout, a triplet is *broken* when it became discordant by tuning and *fixed* when it stopped being so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from adiabatic_ray import config

SIGNIFICANT = 0.05  # a change whose two-tailed p-value lies below it is called significant
ONE_SIDED_95 = NormalDist().inv_cdf(0.95)


def mcnemar(broken: int, fixed: int) -> float:
    """Two-tailed exact p-value that breaking and fixing were equally likely: a binomial test of `broken` in
    `broken + fixed` at one half.

    Source: McNemar 1947, in its exact form.
    """
    changed = broken + fixed
    if changed == 0:
        return 1.0
    k = torch.arange(min(broken, fixed) + 1, dtype=torch.float64)
    log_choose = math.lgamma(changed + 1) - torch.lgamma(k + 1) - torch.lgamma(changed - k + 1)
    tail = float(torch.logsumexp(log_choose, dim=0)) - changed * math.log(2.0)
    return min(1.0, 2.0 * math.exp(tail))


@dataclass(frozen=True)
class Violation:
    """The constraint of one encoder against the untouched one, and what it is made of.

    `value` is the constraint: feasible when at most 0. `worst_z` is the largest degradation z among the guarded groups,
    in group `worst` (`comparison/query language/text language` at the level `pair`), `critical_z` the value it must not
    exceed. `degradation` is the overall share of the base's discordant triplets that was added, in percent, within the
    one-sided 95% bounds `lower` and `upper`. `harmful` says that harm is already certain: a group beyond the critical
    value, or the lower bound beyond the margin.
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

    A premise appears in every pair of languages, so its outcomes are not independent: with `s_i` the sum of (broken -
    fixed) over what a group holds of premise `i`, the group's z is `sum s_i / sqrt(sum s_i^2)`, which for a single pair
    is McNemar's `(b - c) / sqrt(b + c)`, and the variance of the overall degradation is `sum (s_i - mean)^2`.
    """
    change = tuned.double() - base.double()  # +1 broken, -1 fixed
    grouped, labels = groups(change, settings.level), _labels(names, settings.level)
    variance = grouped.square().sum(0)
    z = torch.where(variance > 0, grouped.sum(0) / variance.clamp(min=1).sqrt(), 0.0)
    critical = critical_z(settings.alpha, len(z))
    worst = int(z.argmax())

    per_premise = change.flatten(1).sum(1)
    spread = ONE_SIDED_95 * float((per_premise - per_premise.mean()).square().sum().sqrt())
    total, discordant = float(per_premise.sum()), max(1.0, float(base.sum()))
    upper, lower = 100 * (total + spread) / discordant, 100 * (total - spread) / discordant
    value = max((float(z[worst]) - critical) / critical, (upper - settings.margin) / settings.margin)
    return Violation(
        value=value,
        worst_z=float(z[worst]),
        critical_z=critical,
        worst=labels[worst],
        degradation=100 * total / discordant,
        lower=lower,
        upper=upper,
        harmful=float(z[worst]) > critical or lower > settings.margin,
    )


def critical_z(alpha: float, tests: int) -> float:
    """The two-tailed critical value at `alpha`, Bonferroni-corrected for so many tests."""
    return NormalDist().inv_cdf(1 - alpha / (2 * tests))


def groups(change: Tensor, level: str) -> Tensor:
    """Sums `[n, groups]` of each premise's changes `[n, comparison, language, language]` in what the level guards."""
    if level == "overall":
        return change.flatten(1).sum(1, keepdim=True)
    return change.sum((1, 3)) if level == "language" else change.flatten(1)


def _labels(names: tuple[list[str], list[str]], level: str) -> list[str]:
    comparisons, languages = names
    if level == "overall":
        return ["overall"]
    if level == "language":
        return languages
    return [f"{c}/{x}/{y}" for c in comparisons for x in languages for y in languages]
