"""The trade between the gain and the worst language: its points, its fronts, and what parts add to them."""

from __future__ import annotations

import numpy as np

from adiabatic_ray.report import trade
from adiabatic_ray.report.trade import Trade
from tests.report.axes import lines, only, scattered
from tests.report.sweeps import SIX_TRIALS, part, trial

PARTS = (part(0.25, 5.0, -0.5, -0.3), part(0.5, 7.0, -1.5, -0.1), part(0.75, 9.0, -3.0, 0.4))
RECORDS = [*SIX_TRIALS, trial(6, 12.0, 0.8, scaled=PARTS)]


def test_front_is_what_nothing_beats() -> None:
    random = np.random.default_rng(0)
    drawn = [(float(x), float(y)) for x, y in random.normal(size=(300, 2))]
    drawn += drawn[:20]
    by_loop = {p for p in drawn if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in drawn)}
    assert trade.front(drawn) == sorted(by_loop)
    assert trade.front([]) == []


def test_what_parts_add() -> None:
    made = Trade.of(RECORDS)
    assert made.wholes == [(-0.25, 0.5), (-2.0, 4.0), (-3.0, 6.0)]
    assert made.parts == [(-0.5, 5.0), (-1.5, 7.0)]
    assert (made.rescued, made.scaled) == (1, True)
    assert (made.largest_whole_gain, made.largest_gain) == (6.0, 7.0)
    assert made.front_of_wholes == [(-3.0, 6.0), (-2.0, 4.0), (-0.25, 0.5)]
    assert made.front_of_everything == [(-1.5, 7.0), (-0.5, 5.0), (-0.25, 0.5)]


def test_parts_of_a_trial_that_did_not_end_are_not_feasible() -> None:
    made = Trade.of([trial(1, 12.0, 0.8, scaled=PARTS, state="stopped")])
    assert made.everything == []
    assert (made.largest_gain, made.largest_whole_gain, made.rescued) == (None, None, 0)


def test_the_figure_holds_the_trade() -> None:
    axes = only(trade.gain_against_worst_language(RECORDS, "msmarco", RECORDS[-1]))
    assert scattered(axes) == {
        "feasible": [(-0.25, 0.5), (-2.0, 4.0), (-3.0, 6.0)],
        "feasible part of a displacement": [(-0.5, 5.0), (-1.5, 7.0)],
        "infeasible or stopped": [(-10.0, 20.0), (-6.0, 12.0)],
    }
    drawn = lines(axes)
    assert drawn["front of whole displacements"] == [(-3.0, 6.0), (-2.0, 4.0), (-0.25, 0.5)]
    assert drawn["front with parts"] == [(-1.5, 7.0), (-0.5, 5.0), (-0.25, 0.5)]
    assert drawn["untouched encoder"] == [(0.0, 0.0)]
    assert drawn["best: trial 6"] == [(-1.5, 7.0)]  # the part that is handed over
    assert axes.get_xlabel() == "improvement of the worst language (%)"
    assert axes.get_ylabel() == "gain on msmarco (%)"
