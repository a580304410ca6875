"""Steps are found where they are, intervals hold them, and what was not bracketed is said to be so."""

from __future__ import annotations

import pytest
import torch

from adiabatic_ray.evaluate import bootstrap, significance
from adiabatic_ray.evaluate.evidence import Evidence
from adiabatic_ray.report.regime import Change, Regime, TrialVerdicts, regimes
from tests import guards
from tests.simulation import NAMES, SETTINGS, paired, pairs

RATES = [1e-8, 3e-8, 1e-7, 3e-7, 1e-6, 3e-6]


def simulated(seed: int, edge: float, onset: float, seeds: int = 1) -> list[TrialVerdicts]:
    """A sweep over `RATES` through the real constraint: beyond `edge` every pair is harmed, from `onset` on there is a
    gain."""
    made = []
    for repetition in range(seeds):
        for j, rate in enumerate(RATES):
            own = seed * 1000 + repetition * 100 + j
            base, tuned = pairs(400, own, harm=0.1 if rate > edge else 0.0)
            before, after = paired(2000, torch.Generator().manual_seed(own), 0.25 if rate >= onset else 0.0, 0.02)
            broken, fixed = int((after & ~before).sum()), int((before & ~after).sum())
            drawn, queries = (bootstrap.replicates(n, seed, count=200) for n in (400, 2000))
            made.append(
                TrialVerdicts(
                    "embeddings",
                    rate,
                    guards.violation(base, tuned, NAMES, SETTINGS).feasible,
                    significance.mcnemar(broken, fixed) < 0.05 and fixed > broken,
                    bootstrap.feasible([guards.guarded(base, tuned, NAMES, SETTINGS)], [drawn], SETTINGS.alpha),
                    bootstrap.significant(Evidence(before, after), queries, 0.05),
                )
            )
    return made


def holds(regime: Regime, edge: float) -> bool:
    if regime.edge is None:
        return False
    return (regime.edge.low or 0.0) <= edge <= (regime.edge.high or float("inf"))


def test_a_known_step_edge_lies_inside_its_interval() -> None:
    """100 simulated sweeps: the edge is inside the interval in at least 90, and the interval says something."""
    sweeps = [regimes(simulated(seed, edge=2e-7, onset=2e-8))[0] for seed in range(100)]
    assert sum(holds(one, 2e-7) for one in sweeps) >= 90
    widths = [RATES.index(one.edge.high) - RATES.index(one.edge.low) for one in sweeps
              if one.edge and one.edge.low and one.edge.high]  # fmt: skip
    assert len(widths) >= 90
    assert sorted(widths)[50] <= 2  # of at most 5 steps between tried rates


def certain(mask: str, rate: float, feasible: bool, significant: bool) -> TrialVerdicts:
    draws = torch.ones(50, dtype=torch.bool)
    return TrialVerdicts(mask, rate, feasible, significant, draws & feasible, draws & significant)


def change(rates: list[float], feasible: list[bool], significant: list[bool]) -> Regime:
    return regimes([certain("m", r, f, s) for r, f, s in zip(rates, feasible, significant, strict=True)])[0]


def test_a_clear_regime() -> None:
    clear = change([1e-8, 1e-7, 1e-6, 1e-5], [True, True, True, False], [False, True, True, False])
    assert clear.edge == Change(1e-6, 1e-5, 1e-6, 1e-5)
    assert clear.onset == Change(1e-8, 1e-7, 1e-8, 1e-7)
    assert (clear.rates, clear.trials) == ((1e-8, 1e-7, 1e-6, 1e-5), 4)


@pytest.mark.parametrize(
    ("feasible", "significant", "edge", "onset"),
    [
        ([True, True, True], [False, True, True], (1e-6, None), (1e-8, 1e-7)),
        ([False, False, False], [True, True, True], (None, 1e-8), None),
        ([True, True, False], [False, False, True], (1e-7, 1e-6), (1e-7, None)),
        ([True, True, False], [True, True, True], (1e-7, 1e-6), (None, 1e-8)),
    ],
)
def test_what_lies_beyond_the_tried_rates_is_none(
    feasible: list[bool],
    significant: list[bool],
    edge: tuple[float | None, float | None],
    onset: tuple[float | None, float | None] | None,
) -> None:
    regime = change([1e-8, 1e-7, 1e-6], feasible, significant)
    assert regime.edge == Change(*edge, *edge)
    assert regime.onset == (Change(*onset, *onset) if onset else None)


def test_no_step_is_not_identified() -> None:
    shuffled = change([1e-8, 3e-8, 1e-7, 3e-7, 1e-6, 3e-6], [False, True, False, True, False, True], [True] * 6)
    assert (shuffled.edge, shuffled.onset) == (None, None)
    single = regimes([certain("m", 1e-8, True, True)] * 3)[0]
    assert (single.trials, single.rates, single.edge, single.onset) == (3, (1e-8,), None, None)


def test_masks_have_regimes_of_their_own() -> None:
    trials = [certain(m, r, f, True) for m, r, f in (("a", 1e-8, True), ("a", 1e-7, False), ("b", 1e-8, True),
                                                     ("b", 1e-7, True))]  # fmt: skip
    first, second = regimes(trials)
    assert (first.mask, second.mask) == ("a", "b")
    assert first.edge == Change(1e-8, 1e-7, 1e-8, 1e-7)
    assert second.edge == Change(1e-7, None, 1e-7, None)


def test_seeds_that_disagree_widen_the_interval() -> None:
    agreeing = [certain("m", r, r < 2e-7, True) for r in (1e-8, 1e-7, 1e-6) for _ in range(3)]
    disagreeing = [*agreeing]
    disagreeing[3] = certain("m", 1e-7, False, True)  # one of the three seeds at 1e-7
    assert regimes(agreeing)[0].edge == Change(1e-7, 1e-6, 1e-7, 1e-6)
    assert regimes(disagreeing)[0].edge == Change(1e-7, 1e-6, 1e-8, 1e-6)
