"""Sweeps whose candidates' true degradations are known, to see how often a harmful encoder is handed over.

A pair of a premise and its hypotheses has a latent margin, and is discordant where this lies below 0. Margins of the
untouched encoder are normal, and correlated as in XNLI: pairs share their premise, the premise's comparison, its query
language or its text language. Tuning adds a shift that depends on the query language, and normal noise of which half is
shared by all pairs of a premise in a query language. So the true share of discordant pairs is a normal tail.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.evaluate import guarantee
from tests import guards

Kind: TypeAlias = Literal["overall", "language", "edge", "mixed"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NORMAL = NormalDist()
DISCORDANT = (0.2, 0.25, 0.3, 0.4)  # of the untouched encoder, by query language
LANGUAGES = [f"l{i}" for i in range(len(DISCORDANT))]
SETTINGS = config.Constraint(data="xnli", margin=2.0, language_margin=5.0)
PREMISES = (60, 120, 240, 480)
SCALES = (0.2, 0.4, 0.6, 0.8, 1.0)
TRIALS = 12
GAIN_ERROR = 2.0  # of a measured gain, in percent


@dataclass(frozen=True)
class Candidate:
    """One candidate of a trial, with its true degradations by query language and its true gain, in percent."""

    trial: int
    scale: float
    noise: float
    degradations: tuple[float, ...]
    gain: float

    @property
    def overall(self) -> float:
        """The true overall degradation in percent."""
        return float(np.average(self.degradations, weights=DISCORDANT))

    @property
    def harmful(self) -> bool:
        """Whether a true degradation reaches its margin."""
        worst = max(self.degradations)
        return self.overall >= SETTINGS.margin - 1e-9 or worst >= SETTINGS.language_margin - 1e-9

    def shifts(self) -> Tensor:
        """What tuning takes from the latent margins in each query language, `[L]`.

        Tuned margins have the variance `1 + noise^2`, and the share `(1 + degradation) p` of them lies below 0.
        """
        spread = math.sqrt(1 + self.noise**2)
        return torch.tensor(
            [
                spread * NORMAL.inv_cdf(share * (1 + degradation / 100)) - NORMAL.inv_cdf(share)
                for share, degradation in zip(DISCORDANT, self.degradations, strict=True)
            ]
        )


class Sample:
    """Premises drawn from the population, and what each candidate's encoder makes of them."""

    def __init__(self, premises: int, seed: int) -> None:
        self._shape = (premises, 2, len(LANGUAGES), len(LANGUAGES))
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        shared = [(2, 3), (1, 3), (1, 2), (1, 2, 3), ()]  # the dimensions over which a part of the margin is the same
        parts = sum(self._normal(*dimensions) for dimensions in shared)
        means = torch.tensor([-NORMAL.inv_cdf(share) for share in DISCORDANT])
        self._margins = parts / math.sqrt(len(shared)) + means[:, None]

    @property
    def base(self) -> Tensor:
        """The untouched encoder's outcomes `[n, 2, L, L]`."""
        return self._margins < 0

    def tuned(self, candidate: Candidate) -> Tensor:
        """The candidate's outcomes `[n, 2, L, L]`; all scales of one trial have the same noise in proportion."""
        self._generator.manual_seed(self._seed * 1000 + candidate.trial + 1)
        noise = (self._normal(1, 3) + self._normal()) / math.sqrt(2)
        return self._margins - candidate.shifts()[:, None] + candidate.noise * noise < 0

    def verdict(self, candidate: Candidate) -> guarantee.Verdict:
        """The test of the candidate on this sample."""
        return guards.verdict(self.base, self.tuned(candidate), LANGUAGES, SETTINGS)

    def _normal(self, *same: int) -> Tensor:
        shape = [1 if dimension in same else size for dimension, size in enumerate(self._shape)]
        return torch.randn(shape, generator=self._generator)


@dataclass(frozen=True)
class Outcome:
    """Whether what was handed over is truly harmful, None where nothing was: tested, and by selection alone."""

    kind: Kind
    premises: int
    tested: bool | None
    naive: bool | None


def candidates(kind: Kind, rng: np.random.Generator) -> list[Candidate]:
    """The candidates of one sweep: bolder ones gain more.

    - `overall`: all lie at the margin, in each language;
    - `language`: all lie at the language margin in one language of their trial, and the others gain as much;
    - `edge`: harmless up to some scale of the trial, at the margin or at that of a language beyond it;
    - `mixed`: harm grows with the square of the scale, and differs between trials and languages.
    """
    drawn = []
    for trial in range(TRIALS):
        noise, gain, edge = rng.uniform(0.02, 0.2), rng.uniform(5, 40), rng.uniform(0, 1)
        harmed = int(rng.integers(len(LANGUAGES)))
        growth = tuple(rng.normal(0, 8, len(LANGUAGES)))
        for scale in SCALES:
            degradations = {
                "overall": _even(),
                "language": _one(harmed),
                "edge": (0.0,) * len(LANGUAGES) if scale < edge else _one(harmed) if trial % 2 else _even(),
                "mixed": tuple(g * scale**2 for g in growth),
            }[kind]
            drawn.append(Candidate(trial, scale, noise * scale, degradations, gain * scale))
    return drawn


def harmless(noise: float = 0.1) -> Candidate:
    """A candidate that breaks as many pairs as it fixes, in each language."""
    return Candidate(0, 1.0, noise, (0.0,) * len(LANGUAGES), 10.0)


def run(kind: Kind, premises: int, seed: int) -> Outcome:
    """One sweep: measure all candidates on selection, then confirm a sequence of them, or none."""
    rng = np.random.default_rng(seed)
    selection, confirmation = Sample(premises, 2 * seed), Sample(premises, 2 * seed + 1)
    rungs, feasible, by_name = [], [], {}
    for candidate in candidates(kind, rng):
        gain = candidate.gain + float(rng.normal(0, GAIN_ERROR))
        evidence = selection.verdict(candidate).evidence
        rungs.append(guarantee.Rung(candidate.trial, candidate.scale, gain, evidence))
        by_name[candidate.trial, candidate.scale] = candidate
        violation = guards.violation(selection.base, selection.tuned(candidate), LANGUAGES, SETTINGS)
        if violation.feasible:
            feasible.append((gain, candidate))
    order = [by_name[rung.trial, rung.scale] for rung in guarantee.sequence(rungs, 10)]
    naive = max(feasible, key=lambda pair: pair[0])[1].harmful if feasible else None
    return Outcome(kind, premises, _confirmed(order, confirmation), naive)


def run_all(count: int) -> list[Outcome]:
    """Sweeps of every kind and size by turns."""
    settings = [(kind, premises) for kind in KINDS for premises in PREMISES]
    return [run(*settings[seed % len(settings)], seed) for seed in range(count)]


def passes(candidate: Candidate, premises: int, repetitions: int) -> float:
    """The share of samples on which the candidate passes."""
    verdicts = (Sample(premises, seed).verdict(candidate) for seed in range(repetitions))
    return sum(verdict.passed for verdict in verdicts) / repetitions


def interval(harmful: Iterable[bool | None]) -> tuple[float, float, float]:
    """The share of sweeps that hand over a harmful encoder, with its exact 95% interval (Clopper and Pearson 1934)."""
    events = [event is True for event in harmful]
    found = stats.binomtest(sum(events), len(events))
    low, high = found.proportion_ci(method="exact")
    return float(found.statistic), float(low), float(high)


def _confirmed(order: Sequence[Candidate], confirmation: Sample) -> bool | None:
    """Whether the last candidate before the first that fails is harmful."""
    passed = None
    for candidate in order:
        if not confirmation.verdict(candidate).passed:
            break
        passed = candidate.harmful
    return passed


def _even() -> tuple[float, ...]:
    """Every language at the overall margin."""
    return (SETTINGS.margin,) * len(LANGUAGES)


def _one(harmed: int) -> tuple[float, ...]:
    """One language at the language margin, the others as much better."""
    margin = SETTINGS.language_margin
    return tuple(margin if i == harmed else -margin for i in range(len(LANGUAGES)))
