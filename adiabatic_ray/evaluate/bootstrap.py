"""Bootstrap over what was sampled: queries, and premises with all their pairs of languages together.

A replicate is a set drawn again, with replacement, from the one at hand (Efron 1979). All trials of a sweep are
measured on the same sets, so they share their replicates, and a difference between two trials is a paired one.
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
    """How often each of `n` units is drawn in each replicate, `[count, n]` (float32)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (count, n), generator=generator)
    return torch.zeros(count, n).scatter_add_(1, drawn, torch.ones(count, n))


def improvement(base: Tensor, tuned: Tensor, drawn: Tensor) -> Interval:
    """The improvement in percent, from outcomes `[n, ...]` (bool) of both encoders and replicates `[r, n]`."""
    before, after = (outcomes.float().flatten(1).sum(1) for outcomes in (base[:, None], tuned[:, None]))
    found = 100 * (drawn @ (before - after)) / (drawn @ before).clamp(min=1)
    low, high = found.quantile(torch.tensor([0.025, 0.975])).tolist()
    return Interval(discordance.improvement(int(before.sum()), int(after.sum())), low, high)


def significant(base: Tensor, tuned: Tensor, drawn: Tensor, alpha: float) -> Tensor:
    """Whether each replicate `[r]` has a significant gain: McNemar's test by the normal distribution."""
    change = base.float() - tuned.float()  # +1 fixed, -1 broken
    z = (drawn @ change) / (drawn @ change.abs()).clamp(min=1).sqrt()
    return z > NormalDist().inv_cdf(1 - alpha / 2)


def feasible(base: Tensor, tuned: Tensor, drawn: Tensor, settings: config.Constraint) -> Tensor:
    """Whether each replicate `[r]` meets the constraint, from outcomes `[n, comparison, language, language]` (bool).

    The constraint's second half, the upper bound of the overall degradation, is computed on each replicate as it is on
    the set itself. Its first half is a maximum over many groups, and a bootstrap of a maximum is biased upwards: a
    group's z varies by 1 about a centre that itself already holds a noise of 1, and the largest of hundreds of such
    centres is mostly noise. So the groups' centres are first shrunk towards their mean by as much of their spread as is
    noise (James and Stein 1961, Efron and Morris 1975), which the replicates themselves tell; what premises share, and
    so what all groups share, keeps its full noise.
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
    """Degradation z of each group in each replicate, `[r, groups]`; 0 where nothing changed."""
    return (drawn @ grouped) / (drawn @ grouped.square()).clamp(min=1).sqrt()
