"""Figures over the learning rate hold the numbers that they should: read back from their axes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.report import curves, figures
from adiabatic_ray.report.regime import Change, Regime
from tests.report.axes import Points, lines, points, scattered, scatters
from tests.report.sweeps import SIX_TRIALS, trial

SETS = ["msmarco", "xnli"]


def means(axes: Axes) -> Points:
    """The line of the first mask."""
    (line,) = (line for line in axes.lines if line.get_color() == figures.COLOURS[0] and line.get_linestyle() == "-")
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def faces(drawn: PathCollection) -> list[tuple[float, ...]]:
    return [tuple(face) for face in np.asarray(drawn.get_facecolor()).tolist()]


def test_a_single_rate_is_drawn_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = curves.improvement([trial(1, 4.0, -0.2, 1e-6)], SETS, {}, [], "embeddings")
    assert figure.axes[0].get_xlim() == pytest.approx((1e-7, 1e-5))


def test_gain_and_worst_language_over_the_rate() -> None:
    gain, worst = curves.outcomes(SIX_TRIALS, "msmarco").axes
    shown = figures.measured(SIX_TRIALS)
    assert points(gain) == sorted((r.config["learning_rate"], r.metrics["gain"]) for r in shown)
    assert points(worst) == sorted((r.config["learning_rate"], r.metrics["worst_language"]) for r in shown)
    assert (gain.get_ylabel(), worst.get_xlabel()) == ("gain on msmarco (%)", "learning rate")
    assert worst.get_xscale() == "log"
    for axes in (gain, worst):
        by_kind = scattered(axes)
        assert len(by_kind["feasible"]) == sum(record.feasible for record in shown)
        assert len(by_kind["stopped early"]) == 1


def test_curves() -> None:
    improvements = {
        1: {"msmarco": Interval(0.5, -1, 2), "xnli": Interval(-0.125, -0.5, 0.25)},
        2: {"msmarco": Interval(4, 3, 5), "xnli": Interval(-1, -2, -0.5)},
        3: {"msmarco": Interval(6, 4, 9), "xnli": Interval(-1.5, -2, 1)},
    }
    regimes = [Regime("embeddings", (1e-7, 1e-6), 3, Change(1e-7, 1e-6, None, None), None)]
    figure = curves.improvement(SIX_TRIALS, SETS, improvements, regimes, "embeddings")
    msmarco, xnli = figure.axes
    assert points(msmarco) == [(1e-7, 0.5), (1e-6, 4.0), (1e-6, 6.0), (1e-4, 20.0)]
    assert points(xnli) == [(1e-7, -0.125), (1e-6, -1.5), (1e-6, -1.0), (1e-4, -5.0)]
    assert (msmarco.get_ylabel(), xnli.get_xlabel()) == ("improvement on\nmsmarco (%)", "learning rate")
    assert xnli.get_xscale() == "log"

    # The line goes through the means of equal rates, the band through the means of their intervals.
    assert np.array(means(msmarco)) == pytest.approx(np.array([[1e-7, 0.5], [1e-6, 5.0]]))
    (band,) = (drawn for drawn in msmarco.collections if not isinstance(drawn, PathCollection))
    corners = {tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices).round(9).tolist()}
    assert corners == {(1e-7, -1.0), (1e-7, 2.0), (1e-6, 3.5), (1e-6, 7.0)}

    # Filled where the test passes; on XNLI where the interval excludes 0, and open where there is none.
    open_face, filled = to_rgba("white"), to_rgba(figures.COLOURS[0])
    assert faces(scatters(msmarco)[0]) == [open_face, filled, filled]
    assert faces(scatters(xnli)[0]) == [open_face, filled, open_face]
    assert faces(scatters(xnli)[1]) == [open_face]

    # The feasible range of the mask that has one.
    (shade,) = (patch for patch in msmarco.patches if isinstance(patch, Rectangle))
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == pytest.approx((1e-7, 1e-7))
    assert any([x for x, _ in line] == [1e-7, 1e-7] for line in lines(msmarco).values())
    low, high = msmarco.get_ylim()
    assert low < -1
    assert high > 20


def test_many_rates_become_a_line_through_neighbours() -> None:
    rates = np.geomspace(1e-8, 1e-5, 200)
    many = [trial(k + 1, 2 + (-1) ** k, -0.5, float(rate)) for k, rate in enumerate(rates)]
    axes = curves.improvement(many, SETS, {}, [], "embeddings").axes[0]
    line = np.array(means(axes))
    assert 6 <= len(line) <= curves.MOST_RATES
    assert (np.diff(line[:, 0]) > 0).all()
    assert line[:, 1] == pytest.approx(2.0, abs=0.1)
    assert len(points(axes)) == 200
