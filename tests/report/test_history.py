"""The course of the search: read back from the figure's axes."""

from __future__ import annotations

from adiabatic_ray.report import history
from tests.report.axes import lines, only, scattered
from tests.report.sweeps import SIX_TRIALS, part, trial


def test_gains_and_the_best_so_far() -> None:
    rescued = trial(6, 12.0, 0.8, scaled=(part(0.5, 7.0, -1.5, -0.1),))
    axes = only(history.gains([*SIX_TRIALS, rescued, trial(7, 30.0, 0.5)], "msmarco"))
    assert scattered(axes) == {
        "feasible": [(1, 0.5), (2, 4.0), (3, 6.0)],
        "feasible part of the displacement": [(6, 7.0)],
        "stopped early": [(4, 20.0)],
        "infeasible": [(7, 30.0)],
    }
    assert [number for number, _ in lines(axes)["failed"]] == [5]
    assert lines(axes)["best feasible so far"] == [(0, 0), (1, 0.5), (2, 4), (3, 6), (4, 6), (6, 7), (7, 7)]
    assert axes.get_ylabel() == "gain on msmarco (%)"


def test_nothing_failed() -> None:
    assert "failed" not in lines(only(history.gains(SIX_TRIALS[:4], "msmarco")))
