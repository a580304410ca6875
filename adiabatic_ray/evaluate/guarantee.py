"""What confirmation proves of a tuned encoder: that no guarded group got worse by more than its margin.

The sweep may try as many candidates as it likes. From selection alone `sequence` orders few of them, from safest to
boldest. Each is tested on the confirmation sets, which no trial has seen, and the first that fails ends the sequence.
For an encoder that harms by more than a margin to be handed over, the first such one of the sequence has to pass its
test. So this happens in at most `alpha` of all sweeps, however many candidates were tried.

Sources: Learn then Test (Angelopoulos, Bates, Candes, Jordan, Lei 2021) for the fixed sequence, Pareto Testing
(Laufer-Goldenberg, Fisch, Barzilay, Jaakkola 2023) for the order along a Pareto front.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor
from torch.nn import functional

from adiabatic_ray.evaluate import bootstrap, significance
from adiabatic_ray.evaluate.evidence import OVERALL, Evidence, Groups, Guarded

# With this much evidence on selection, a candidate passes on a confirmation set of the same size with a probability of
# 95%: the two sets' statistics differ by chance with a standard deviation of sqrt(2).
WIDE = math.sqrt(2) * significance.ONE_SIDED_95
POWER = 0.8
MOST_PREMISES = 10_000_000  # a number of premises beyond this is no plan

Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bound:
    """The test of one group: is its degradation below its margin?

    `group` is `overall` or a query language, and `guard` names the guard where there are several. The numbers are in
    percent of what the untouched encoder has in the group, discordant triplets or a metric. `degradation` is what was
    observed, and `upper` its one-sided upper bound at `1 - alpha`: it is infinite where the untouched encoder has too
    little. `correction` is what the imaginary premises of `test` add to the degradation, and `statistic` is
    `(margin - degradation - correction) / standard_error`: larger is safer. It must not be below `critical`, and `n`
    premises, triplets or queries were tested.
    """

    group: str
    margin: float
    degradation: float
    correction: float
    standard_error: float
    upper: float
    statistic: float
    p_value: float
    critical: float
    n: int
    guard: str = ""

    @property
    def name(self) -> str:
        """The group's name among those of all guards."""
        return f"{self.guard}/{self.group}" if self.guard else self.group

    @property
    def evidence(self) -> float:
        """How far the statistic lies above the critical value: larger is safer, 0 is the boundary."""
        return self.statistic - self.critical


@dataclass(frozen=True)
class Verdict:
    """The bounds of one encoder on all guards: it passes where every group passes."""

    bounds: tuple[Bound, ...]
    alpha: float

    @property
    def passed(self) -> bool:
        """Whether every degradation above its margin is ruled out, at the error rate `alpha`."""
        return self.evidence >= 0

    @property
    def p_value(self) -> float:
        """The largest p-value of the bounds: that of the intersection-union test."""
        return max(bound.p_value for bound in self.bounds)

    @property
    def evidence(self) -> float:
        """The smallest evidence of all bounds."""
        return self.weakest.evidence

    @property
    def weakest(self) -> Bound:
        """The bound with the least evidence."""
        return min(self.bounds, key=lambda bound: bound.evidence)

    @property
    def failure(self) -> str:
        """Why the encoder does not pass, in words. Empty if it passes."""
        if self.passed:
            return ""
        bound, sure = self.weakest, f"{100 * (1 - self.alpha):g}%"
        group, key = ("all together", "margin") if bound.group == OVERALL else (bound.group, "language_margin")
        where = f"on {bound.guard}, " if bound.guard else ""
        return f"{where}{group} may be {bound.upper:.1f}% worse ({sure} bound), and `{key}` allows {bound.margin:g}%"


@dataclass(frozen=True)
class Rung:
    """A candidate, a trial's displacement times a scale, as selection sees it.

    `gain` is in percent; `evidence` is that of the `Verdict` on the selection set.
    """

    trial: int
    scale: float
    gain: float
    evidence: float


@dataclass(frozen=True)
class Margins:
    """The smallest margins that a set can prove, in percent; `language` is None where it has no languages."""

    overall: float
    language: float | None


def test(guards: Sequence[Guarded], alpha: float) -> Verdict:
    """Test that tuning made nothing worse by more than a margin.

    The null hypotheses are, of each guard, an overall degradation of at least `margin` and, of each of its query
    languages, one of at least `language_margin`. All must be rejected, each one-sided at `alpha`, without a correction
    for their number: an intersection-union test (Berger 1982).

    Let `b_i` be the sum of a group's values of unit `i` (a premise, a triplet or a query) with the untouched encoder,
    and `d_i` how much worse it got. At the margin m the mean of `d_i - m b_i` is 0, so a one-sample t test of it with
    `n - 1` degrees of freedom needs no fixed denominator (Fieller 1954). `upper` is the margin that is just rejected.

    Where little changed, the variance is next to nothing, and the t test alone proves too much: tuning that breaks 3 of
    100 premises breaks none in one of 20 samples of 100. So `z^2 / 2` imaginary units join the sample, with z the
    normal quantile of `1 - alpha` (in the manner of Agresti and Coull 1998). They are average units, except that on
    each of them tuning does `k` more harm, as much as typically changes together: `sum d_i^2 / sum |d_i|`. To both
    sums one change of 1 is added, the most that an outcome or a metric can change, of a unit where as much changes as
    is discordant together, `sum b_i^2 / sum b_i`. This decides where nothing changed, and hardly matters where much
    did. A group in which the untouched encoder has nothing proves nothing, and does not pass.

    Assumed: units are drawn independently, each with all its outcomes, and where changes were not seen, they are no
    larger together than those that were. Rare premises of which tuning breaks very many outcomes at once, beside many
    that change little, are found only in large sets.
    """
    return Verdict(tuple(bound for guard in guards for bound in _bounds(guard, alpha)), alpha)


def _bounds(guard: Guarded, alpha: float) -> Iterator[Bound]:
    evidence, settings = guard.evidence, guard.settings
    tested = [(evidence.overall(), settings.margin)]
    tested += [(groups, settings.margin_by_language) for groups in evidence.by_language()]
    for groups, margin in tested:
        before, change = groups.before.numpy(), groups.change.numpy()
        if len(before) == 0:
            before = change = np.zeros((1, len(groups.names)))  # a language without units proves nothing
        margins = np.full(len(groups.names), margin)
        estimates = _estimates(change, before, alpha)
        statistics = estimates.statistics(margins)
        columns = {
            "margin": margins,
            "degradation": estimates.degradation,
            "correction": estimates.correction,
            "standard_error": estimates.standard_errors(margins),
            "upper": estimates.upper(),
            "statistic": statistics,
            "p_value": special.stdtr(estimates.freedom, -statistics),
        }
        for i, name in enumerate(groups.names):
            numbers = {key: float(column[i]) for key, column in columns.items()}
            yield Bound(group=name, critical=estimates.critical, n=len(before), guard=guard.label, **numbers)


def sequence(points: Iterable[Rung], count: int) -> list[Rung]:
    """Order at most `count` candidates for confirmation, from safest to boldest, with strictly increasing gains.

    They lie on the Pareto front in gain and evidence, of the candidates that gain anything. The evidence is lowered in
    `count` equal steps, from where selection finds a candidate safe by a wide margin to where it refutes it by as much,
    and each step takes the boldest candidate that has so much. So no test is spent on a candidate where a bolder one is
    about as safe. If none is safe by a wide margin, the safest goes first.
    """
    front = _front(points)
    steps = np.linspace(WIDE, -WIDE, count)
    boldest = [max((i for i, rung in enumerate(front) if rung.evidence >= step), default=0) for step in steps]
    return [front[i] for i in sorted(set(boldest))] if front else []


def times_needed(verdict: Verdict, power: float = POWER) -> float | None:
    """How many times as many units of the same kind let the candidate pass with this probability.

    The observed degradations are taken to be the true ones. Standard errors shrink with the root of the number, and
    what imaginary premises add shrinks with the number itself. The bounds' probabilities to fail are added up, which is
    certain to be enough. The number of a single bound is that of a verdict with this bound alone. None where more
    premises would not help: a degradation is not below its margin, or a group has no discordant outcomes.
    """
    if any(bound.degradation >= bound.margin or math.isinf(bound.standard_error) for bound in verdict.bounds):
        return None
    smallest = min(bound.n for bound in verdict.bounds)
    numbers = range(2, MOST_PREMISES)
    index = bisect.bisect_left(numbers, power, key=lambda number: _pass_probability(verdict, number / smallest))
    return numbers[index] / smallest if index < len(numbers) else None


def noisy(queries: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Embeddings `[n, d]`, each moved at random by about `size` of its length, which it keeps."""
    noise = torch.randn(queries.shape, generator=generator) / math.sqrt(queries.shape[-1])
    lengths: Tensor = queries.norm(dim=-1, keepdim=True)
    moved = functional.normalize(queries + size * lengths * noise.to(queries), dim=-1)
    return moved * lengths


def smallest_margins(draws: Sequence[Evidence], alpha: float, power: float = POWER, seed: int = 0) -> Margins:
    """The smallest margins that an encoder which changes nothing but noise would pass with this probability.

    `draws` are the untouched encoder's values on the confirmation set beside those of embeddings that `noisy` moved at
    random, one for each draw of the noise. Sets of this kind are bootstrapped (by unit), and the margin of each is its
    upper bound, less the harm that noise does on average: a harmless encoder's degradation is 0. All languages must
    pass at once, so the language margin is that of the language with the largest bound in each replicate.
    """
    overall = np.concatenate([_harmless_upper(draw.overall(), alpha, seed) for draw in draws])
    languages = [
        np.concatenate([_harmless_upper(groups, alpha, seed) for groups in draw.by_language()], axis=1)
        for draw in draws
        if draw.by_language()
    ]
    language = _least_proved(np.concatenate(languages).max(1), power) if languages else None
    return Margins(_least_proved(overall[:, 0], power), language)


@dataclass(frozen=True)
class _Estimates:
    """The means of changes and of the base's outcomes a premise, by group `[..., groups]`, and how sure they are.

    `degradation` and `correction` are in percent. The imaginary premises are in the mean `change` and in the variances
    of the two means and their covariance.
    """

    freedom: int
    critical: float
    degradation: Array
    correction: Array
    change: Array
    base: Array
    change_variance: Array
    base_variance: Array
    covariance: Array

    def variances(self, margins: Array) -> Array:
        """The variance of the mean of `d_i - m b_i` at the margins (percent)."""
        m = margins / 100
        return self.change_variance - 2 * m * self.covariance + m**2 * self.base_variance

    def standard_errors(self, margins: Array) -> Array:
        """The standard errors of the degradations at the margins, in percent."""
        return _percent(np.sqrt(self.variances(margins)), self.base)

    def statistics(self, margins: Array) -> Array:
        """The t statistics at the margins, larger is safer.

        Where Fieller's bound is infinite, at most that of the base's own mean, which then is below the critical value:
        even if this margin were rejected, a wider one would not be.
        """
        against = (margins / 100 * self.base - self.change) / np.sqrt(self.variances(margins))
        own = self.base / np.sqrt(np.where(self.base_variance > 0, self.base_variance, 1.0))
        return np.where(self.bounded(), against, np.minimum(against, own))

    def bounded(self) -> npt.NDArray[np.bool_]:
        """Whether the base's mean is above 0 beyond chance, so that a degradation has an upper bound."""
        return self.base > self.critical * np.sqrt(self.base_variance)

    def upper(self) -> Array:
        """Fieller's upper bound in percent: the larger root m of `(change - m base)^2 = critical^2 variance(m)`."""
        squared = self.critical**2
        a = self.base**2 - squared * self.base_variance
        b = self.change * self.base - squared * self.covariance
        c = self.change**2 - squared * self.change_variance
        root = (b + np.sqrt(np.maximum(b**2 - a * c, 0))) / np.where(self.bounded(), a, 1.0)
        return np.where(self.bounded(), 100 * root, np.inf)


def _estimates(change: Array, base: Array, alpha: float, drawn: Array | None = None) -> _Estimates:
    """Estimate from each premise's sums `[n, groups]`, or from each bootstrap replicate `[r, n]` of them.

    The imaginary premises are those of `test`, and `typical` is its `k`. They leave the base's mean as it is.
    """
    n, freedom = len(base), max(1, len(base) - 1)
    weights = np.ones(n) if drawn is None else drawn
    total, discordant = weights @ change, weights @ base
    together = np.maximum(1.0, weights @ base**2 / np.maximum(1.0, discordant))
    typical = (weights @ change**2 + together) / (weights @ np.abs(change) + 1)
    imaginary = _imaginary(alpha)
    enlarged = n + imaginary
    scale = enlarged * (enlarged - 1)
    added = imaginary * typical / enlarged
    return _Estimates(
        freedom=freedom,
        critical=float(special.stdtrit(freedom, 1 - alpha)),
        degradation=_percent(total, discordant),
        correction=_percent(added, discordant / n),
        change=total / n + added,
        base=discordant / n,
        change_variance=(weights @ change**2 - total**2 / n + n * added * typical) / scale,
        base_variance=(weights @ base**2 - discordant**2 / n) / scale,
        covariance=(weights @ (change * base) - total * discordant / n) / scale,
    )


def _imaginary(alpha: float) -> float:
    """How many imaginary premises join a sample, `z^2 / 2`."""
    return NormalDist().inv_cdf(1 - alpha) ** 2 / 2


def _percent(part: Array, whole: Array) -> Array:
    """Part in percent of the whole; of nothing 0 or infinity."""
    of_nothing = np.where(part == 0, 0.0, np.inf)
    return np.where(whole > 0, 100 * part / np.where(whole > 0, whole, 1.0), of_nothing)


def _front(points: Iterable[Rung]) -> list[Rung]:
    """The points that gain, of which no other has both a larger gain and more evidence, by increasing gain."""
    front: list[Rung] = []
    for point in sorted(points, key=lambda point: (-point.gain, -point.evidence)):
        if point.gain > 0 and (not front or point.evidence > front[-1].evidence):
            front.append(point)
    return front[::-1]


def _pass_probability(verdict: Verdict, grown: float) -> float:
    """At least how probable it is to pass with this many times as many units."""
    imaginary, failures = _imaginary(verdict.alpha), 0.0
    for bound in verdict.bounds:
        n = bound.n
        critical = special.stdtrit(max(1.0, n * grown - 1), 1 - verdict.alpha)
        theirs = bound.correction**2 / imaginary * n / (n + imaginary - 1)  # their part of the squared standard error
        spread = math.sqrt((bound.standard_error**2 - theirs) / grown + theirs / grown**2)
        distance = bound.margin - bound.degradation - bound.correction / grown
        failures += NormalDist().cdf(critical - distance / spread)
    return 1 - failures


def _harmless_upper(groups: Groups, alpha: float, seed: int) -> Array:
    """Upper bounds `[r, groups]` in percent of an encoder whose degradation is 0 and that changes as much as this one.

    Fieller's bound moves with the degradation, so that this can be subtracted.
    """
    before, change = groups.before.numpy(), groups.change.numpy()
    drawn = bootstrap.replicates(len(before), seed).double().numpy()
    harm = _percent(change.sum(0), before.sum(0))
    return _estimates(change, before, alpha, drawn).upper() - np.where(np.isfinite(harm), harm, 0.0)


def _least_proved(upper: Array, power: float) -> float:
    """The smallest margin that lies above this share of the upper bounds."""
    return float(np.quantile(upper, power, method="higher"))
