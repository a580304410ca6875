"""Paired tests between the untouched and a tuned encoder, and the constraint that no language is harmed.

A triplet is *broken* when tuning made it discordant, and *fixed* when tuning made it concordant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from adiabatic_ray.evaluate.evidence import Evidence, Guarded

SIGNIFICANT = 0.05  # a change is significant when its two-tailed p-value lies below this
ONE_SIDED_95 = NormalDist().inv_cdf(0.95)
FLIPS, FLIPS_PER_CHUNK = 10_000, 1_000  # random choices of signs, and how many are held in memory

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


def randomization(change: Tensor, seed: int = 0) -> float:
    """Two-tailed p-value of the paired randomization test on the mean change of a metric, from each query's, `[n]`.

    Under the null hypothesis each change has either sign with the same probability. Of `FLIPS` random choices of signs,
    and the observed one, this is the share whose sum is at least as far from 0.

    Source: Smucker, Allan and Carterette 2007.
    """
    generator = torch.Generator().manual_seed(seed)
    change = change[change != 0].double()
    as_far = 1
    for _ in range(0, FLIPS, FLIPS_PER_CHUNK):
        signs = torch.randint(2, (FLIPS_PER_CHUNK, len(change)), generator=generator, dtype=torch.int8)
        sums = 2 * (signs.double() @ change) - change.sum()
        as_far += int((sums.abs() >= change.sum().abs() - 1e-12).sum())
    return as_far / (FLIPS + 1)


def clustered(change: Tensor) -> float:
    """Two-tailed p-value of a mean change, from changes `[n, ...]` of which those of a unit belong together."""
    return 2 * NormalDist().cdf(-abs(float(_degradation_z(change.double().flatten(1).sum(1, keepdim=True)))))


def p_value(evidence: Evidence) -> float:
    """Two-tailed p-value of a change: exact for triplets, by randomization for metrics, clustered for XNLI."""
    change = evidence.change
    if change.dim() > 1:
        return clustered(change)
    if evidence.base.dtype == torch.bool:
        return mcnemar(int((change > 0).sum()), int((change < 0).sum()))
    return randomization(change)


@dataclass(frozen=True)
class Violation:
    """The constraint of one encoder against the untouched one, and what it is made of.

    `value` is the constraint; the encoder is feasible when it is at most 0. `worst_z` is the largest degradation z of
    all guarded groups, and `worst` names its group (`comparison/query language/text language` at the level `pair`),
    with its guard before it where there are several. `worst_z` must not exceed `critical_z`. `degradation` is the
    overall degradation in percent of the guard that comes nearest to its margin or is furthest above it; `lower` and
    `upper` are its one-sided 95% bounds. `harmful` says that harm is already certain: `worst_z` exceeds `critical_z`,
    or the `lower` of a guard exceeds its margin.
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


def violation(guards: Sequence[Guarded], alpha: float) -> Violation:
    """The constraint over all guards. Its value is the largest of these relative violations:

    (a) nowhere significantly worse: `(worst z - critical z) / critical z`, where the critical value is the two-tailed
        one at `alpha`, Bonferroni-corrected over all groups that the guards' levels name: each pair of languages in
        each comparison (`pair`), each query language (`language`), or everything at once (`overall`);
    (b) no guard overall worse by more than its margin: `(upper bound - margin) / margin`.

    A premise appears in every pair of languages, so its outcomes are not independent. Let `s_i` be the sum of the
    changes of unit `i` in a group, those for the worse being positive. The group's z is `sum s_i / sqrt(sum s_i^2)`;
    for a single pair this is McNemar's `(b - c) / sqrt(b + c)`. The variance of the overall degradation is
    `sum (s_i - mean)^2`.
    """
    names, z = [], []
    for guard in guards:
        for groups in guard.evidence.at(guard.settings.level):
            names += [guard.named(name) for name in groups.names]
            z.append(_degradation_z(groups.change))
    zs = torch.cat(z)
    critical = critical_z(alpha, len(zs))
    worst = int(zs.argmax())
    worst_z = float(zs[worst])
    overall = [(_overall_degradation(guard.evidence), guard.settings.margin) for guard in guards]
    (degradation, lower, upper), margin = max(overall, key=lambda one: (one[0][2] - one[1]) / one[1])
    return Violation(
        value=max((worst_z - critical) / critical, (upper - margin) / margin),
        worst_z=worst_z,
        critical_z=critical,
        worst=names[worst],
        degradation=degradation,
        lower=lower,
        upper=upper,
        harmful=worst_z > critical or any(bounds[1] > margin for bounds, margin in overall),
    )


def critical_z(alpha: float, tests: int) -> float:
    """The two-tailed critical value at `alpha`, Bonferroni-corrected for this number of tests."""
    return NormalDist().inv_cdf(1 - alpha / (2 * tests))


def _degradation_z(grouped: Tensor) -> Tensor:
    """The z of each group's degradation, from the changes `[n, groups]`; 0 where nothing changed."""
    variance = grouped.square().sum(0)
    return torch.where(variance > 0, grouped.sum(0) / variance.clamp(min=1e-30).sqrt(), 0.0)


def _overall_degradation(evidence: Evidence) -> tuple[float, float, float]:
    """The degradation over everything with its lower and its upper bound, in percent of the base's sum."""
    groups = evidence.overall()
    per_unit = groups.change[:, 0]
    half_width = ONE_SIDED_95 * float((per_unit - per_unit.mean()).square().sum().sqrt())
    total, base = float(per_unit.sum()), max(evidence.least, float(groups.before.sum()))
    return 100 * total / base, 100 * (total - half_width) / base, 100 * (total + half_width) / base
