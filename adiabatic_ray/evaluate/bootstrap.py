"""Bootstrap over queries, or over premises, each with all its pairs of languages.

A replicate draws as many units as the set has, with replacement (Efron 1979). All trials of a sweep are measured on the
same sets and share their replicates, so that differences between trials are paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.evaluate import discordance, significance

REPLICATES = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% percentile interval."""

    value: float
    low: float
    high: float


def replicates(n: int, seed: int, count: int = REPLICATES) -> Tensor:
    """How often each replicate draws each of `n` units, `[count, n]` (float32)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (count, n), generator=generator)
    return torch.zeros(count, n).scatter_add_(1, drawn, torch.ones(count, n))


def improvement(base: Tensor, tuned: Tensor, drawn: Tensor) -> Interval:
    """The improvement in percent, from outcomes `[n, ...]` (bool) of both encoders and replicates `[r, n]`."""
    before, after = (outcomes.float().flatten(1).sum(1) for outcomes in (base[:, None], tuned[:, None]))
    improvements = 100 * (drawn @ (before - after)) / (drawn @ before).clamp(min=1)
    low, high = improvements.quantile(torch.tensor([0.025, 0.975])).tolist()
    return Interval(discordance.improvement(int(before.sum()), int(after.sum())), low, high)


def significant(base: Tensor, tuned: Tensor, drawn: Tensor, alpha: float) -> Tensor:
    """Whether the gain is significant in each replicate, `[r]` (bool), by McNemar's test with its normal approximation.

    The arguments are those of `improvement`.
    """
    change = base.float() - tuned.float()  # +1 fixed, -1 broken
    z = (drawn @ change) / (drawn @ change.abs()).clamp(min=1).sqrt()
    return z > NormalDist().inv_cdf(1 - alpha / 2)


def feasible(base: Tensor, tuned: Tensor, drawn: Tensor, settings: config.Constraint) -> Tensor:
    """Whether each replicate meets the constraint, `[r]` (bool).

    The outcomes of both encoders have the shape `[n, comparison, language, language]` (bool), and the replicates
    `[r, n]`.

    Part (b) of the constraint, the upper bound of the overall degradation, is computed on each replicate as on the set
    itself. Part (a) is a maximum over many groups, and a bootstrapped maximum is biased upwards: in the replicates a
    group's z varies by about 1 around its observed value, which contains noise of about 1 already. The largest of
    hundreds of observed values is mostly noise. So the observed values are first shrunk towards their mean, by the
    share of their variance that is noise (James and Stein 1961, Efron and Morris 1975). The replicates give this share.
    Noise that all groups have in common, since they have premises in common, is not reduced.
    """
    change = tuned.float() - base.float()
    grouped = significance.groups(change, settings.level)
    z = _z(drawn, grouped)
    observed = _z(torch.ones(1, len(change)), grouped)
    if grouped.shape[1] > 1:
        noise = (z - observed).var(dim=1).mean()
        kept = (1 - noise / observed.var().clamp(min=1e-9)).clamp(min=0)
        z = z + (1 - kept) * (observed.mean() - observed)
    critical = significance.critical_z(settings.alpha, grouped.shape[1])

    per_premise, n = change.flatten(1).sum(1), len(change)
    total = drawn @ per_premise
    spread = ((drawn @ per_premise.square()) - total.square() / n).clamp(min=0).sqrt()
    discordant = (drawn @ base.float().flatten(1).sum(1)).clamp(min=1)
    upper = 100 * (total + significance.ONE_SIDED_95 * spread) / discordant
    return (z.amax(dim=1) <= critical) & (upper <= settings.margin)


def _z(drawn: Tensor, grouped: Tensor) -> Tensor:
    """The degradation z of each group in each replicate, `[r, groups]`; 0 where nothing changed."""
    return (drawn @ grouped) / (drawn @ grouped.square()).clamp(min=1).sqrt()
