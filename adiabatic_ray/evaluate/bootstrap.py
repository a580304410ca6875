"""Bootstrap over queries, or over premises, each with all its pairs of languages.

A replicate draws as many units as the set has, with replacement (Efron 1979). All trials of a sweep are measured on the
same sets and share their replicates, so that differences between trials are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from adiabatic_ray.evaluate import significance
from adiabatic_ray.evaluate.evidence import OVERALL, Evidence, Groups, Guarded
from adiabatic_ray.evaluate.evidence import improvement as relative

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


def improvement(evidence: Evidence, drawn: Tensor) -> Interval:
    """The improvement in percent, with replicates `[r, n]` of the units."""
    return _improvements(evidence.overall(), evidence, drawn)[OVERALL]


def by_language(evidence: Evidence, drawn: Tensor) -> dict[str, Interval]:
    """The improvement of each query language in percent, with replicates `[r, n]` of all units."""
    return {
        name: interval
        for groups in evidence.by_language()
        for name, interval in _improvements(groups, evidence, drawn).items()
    }


def _improvements(groups: Groups, evidence: Evidence, drawn: Tensor) -> dict[str, Interval]:
    own = drawn if groups.rows is None else drawn[:, groups.rows]
    replicated = -100 * (own @ groups.change.float()) / (own @ groups.before.float()).clamp(min=evidence.least)
    lows, highs = replicated.quantile(torch.tensor([0.025, 0.975]), dim=0).tolist()
    sums = zip(groups.before.sum(0).tolist(), groups.change.sum(0).tolist(), strict=True)
    values = [relative(before, change) for before, change in sums]
    return {name: Interval(*one) for name, *one in zip(groups.names, values, lows, highs, strict=True)}


def significant(evidence: Evidence, drawn: Tensor, alpha: float) -> Tensor:
    """Whether the gain is significant in each replicate, `[r]` (bool), in the normal approximation of its test."""
    return _z(drawn, -evidence.overall().change.float())[:, 0] > NormalDist().inv_cdf(1 - alpha / 2)


def feasible(guards: Sequence[Guarded], drawn: Sequence[Tensor], alpha: float) -> Tensor:
    """Whether each replicate meets the constraint, `[r]` (bool), with replicates `[r, n]` of the units of each guard.

    Part (b) of the constraint, the upper bound of the overall degradation, is computed on each replicate as on the set
    itself. Part (a) is a maximum over many groups, and a bootstrapped maximum is biased upwards: in the replicates a
    group's z varies by about 1 around its observed value, which contains noise of about 1 already. The largest of
    hundreds of observed values is mostly noise. So the observed values are first shrunk towards their mean, by the
    share of their variance that is noise (James and Stein 1961, Efron and Morris 1975). The replicates give this share.
    Noise that all groups have in common, since they have premises in common, is not reduced.
    """
    replicated, measured = [], []
    for guard, own in zip(guards, drawn, strict=True):
        for groups in guard.evidence.at(guard.settings.level):
            change = groups.change.float()
            replicated.append(_z(own if groups.rows is None else own[:, groups.rows], change))
            measured.append(_z(torch.ones(1, len(change)), change))
    z, observed = torch.cat(replicated, dim=1), torch.cat(measured, dim=1)
    if z.shape[1] > 1:
        noise = (z - observed).var(dim=1).mean()
        kept = (1 - noise / observed.var().clamp(min=1e-9)).clamp(min=0)
        z = z + (1 - kept) * (observed.mean() - observed)
    holds = z.amax(dim=1) <= significance.critical_z(alpha, z.shape[1])
    for guard, own in zip(guards, drawn, strict=True):
        holds &= _upper(guard.evidence, own) <= guard.settings.margin
    return holds


def _upper(evidence: Evidence, drawn: Tensor) -> Tensor:
    """The upper bound of the overall degradation in each replicate, in percent, `[r]`."""
    groups = evidence.overall()
    change, n = groups.change[:, 0].float(), len(evidence)
    total = drawn @ change
    spread = ((drawn @ change.square()) - total.square() / n).clamp(min=0).sqrt()
    before = (drawn @ groups.before[:, 0].float()).clamp(min=evidence.least)
    return 100 * (total + significance.ONE_SIDED_95 * spread) / before


def _z(drawn: Tensor, grouped: Tensor) -> Tensor:
    """The degradation z of each group in each replicate, `[r, groups]`; 0 where nothing changed."""
    return (drawn @ grouped) / (drawn @ grouped.square()).clamp(min=1e-30).sqrt()
