"""Figures hold the numbers that they should: read back from their axes."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from scipy import stats

from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.report import figures, heat_maps
from adiabatic_ray.report.ledger import Candidate, Point, Record
from adiabatic_ray.report.regime import Change, Regime


def record(number: int, gain: float, constraint: float, rate: float = 1e-6, **changes: Any) -> Record:
    found = {
        "gain": gain,
        "constraint": constraint,
        "p_value": 0.2 if gain < 1 else 0.001,
        "worst_language": -gain / 2,
        "improvement/msmarco": gain,
        "p_value/msmarco": 0.2 if gain < 1 else 0.001,
        "improvement/xnli": -gain / 4,
        "improvement/xnli/de": -gain / 2,
    }
    config = {"learning_rate": rate, "freeze": changes.pop("mask", "embeddings")} if number else {}
    return dataclasses.replace(
        Record(number, config, "complete", "", 1.0, 3.5, (Point(8, 3.0, found),), "neutral/de/en"), **changes
    )


RECORDS = [
    record(0, 0, -1),
    record(1, 0.5, -0.6, 1e-7),
    record(2, 4.0, -0.2),
    record(3, 6.0, -0.1),
    record(4, 20.0, 3.0, 1e-4, state="stopped", mask="none"),
    record(5, 9.0, -0.5, state="crashed"),
]


def part(scale: float, gain: float, worst: float, constraint: float) -> Candidate:
    return Candidate(scale, {"gain": gain, "worst_language": worst, "constraint": constraint}, "neutral/de/en")


def points(axes: Any) -> list[tuple[float, float]]:
    """All scattered points of the axes."""
    return sorted((float(x), float(y)) for one in axes.collections if hasattr(one, "get_sizes") and len(one.get_sizes())
                  for x, y in one.get_offsets())  # fmt: skip


def test_a_single_rate_is_drawn_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.improvement_curves([record(1, 4.0, -0.2, 1e-6)], {}, [], "embeddings")
    assert figure.axes[0].get_xlim() == pytest.approx((1e-7, 1e-5))


def test_gain_and_worst_language_over_the_rate() -> None:
    figure = figures.outcomes_over_rate(RECORDS, "msmarco")
    gain, worst = figure.axes
    tuned = figures.tuned(RECORDS)
    assert points(gain) == sorted((r.config["learning_rate"], r.metrics["gain"]) for r in tuned)
    assert points(worst) == sorted((r.config["learning_rate"], r.metrics["worst_language"]) for r in tuned)
    assert (gain.get_ylabel(), worst.get_xlabel(), worst.get_xscale()) == (
        "gain on msmarco (%)",
        "learning rate",
        "log",
    )
    for axes in (gain, worst):
        by_kind = {one.get_label(): len(one.get_offsets()) for one in axes.collections}
        assert by_kind["feasible"] == sum(record.feasible for record in tuned)
        assert sum(by_kind.values()) == len(tuned)


def test_curves() -> None:
    improvements = {
        1: {"msmarco": Interval(0.5, -1, 2), "xnli": Interval(-0.125, -0.5, 0.25)},
        2: {"msmarco": Interval(4, 3, 5), "xnli": Interval(-1, -2, -0.5)},
        3: {"msmarco": Interval(6, 4, 9), "xnli": Interval(-1.5, -2, 1)},
    }
    regimes = [Regime("embeddings", (1e-7, 1e-6), 3, Change(1e-7, 1e-6, None, None), None, "")]
    figure = figures.improvement_curves(RECORDS, improvements, regimes, "embeddings")
    msmarco, xnli = figure.axes
    assert points(msmarco) == [(1e-7, 0.5), (1e-6, 4.0), (1e-6, 6.0), (1e-4, 20.0)]
    assert points(xnli) == [(1e-7, -0.125), (1e-6, -1.5), (1e-6, -1.0), (1e-4, -5.0)]
    assert (msmarco.get_ylabel(), xnli.get_xlabel()) == ("improvement on\nmsmarco (%)", "learning rate")
    assert xnli.get_xscale() == "log"

    # The line goes through the means of equal rates, the band through the means of their intervals.
    line = next(line for line in msmarco.lines if line.get_color() == figures.COLOURS[0] and len(line.get_xdata()) == 2)
    assert np.array(line.get_xydata()) == pytest.approx(np.array([[1e-7, 0.5], [1e-6, 5.0]]))
    band = next(one for one in msmarco.collections if not len(one.get_offsets()[0].nonzero()[0]))
    corners = {tuple(round(float(v), 9) for v in corner) for corner in band.get_paths()[0].vertices}
    assert corners == {(1e-7, -1.0), (1e-7, 2.0), (1e-6, 3.5), (1e-6, 7.0)}

    # Filled where the test passes; on XNLI where the interval excludes 0, and open where there is none.
    open_face, filled = to_rgba("white"), to_rgba(figures.COLOURS[0])
    scatters = [[one for one in axes.collections if len(one.get_sizes())] for axes in (msmarco, xnli)]
    assert [tuple(face) for face in scatters[0][0].get_facecolors()] == [open_face, filled, filled]
    assert [tuple(face) for face in scatters[1][0].get_facecolors()] == [open_face, filled, open_face]
    assert [tuple(face) for face in scatters[1][1].get_facecolors()] == [open_face]

    # The feasible range of the mask that has one.
    (shade,) = msmarco.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == pytest.approx((1e-7, 1e-7))
    assert any(list(line.get_xdata()) == [1e-7, 1e-7] for line in msmarco.lines)
    low, high = msmarco.get_ylim()
    assert low < -1
    assert high > 20


def test_many_rates_become_a_line_through_neighbours() -> None:
    rates = np.geomspace(1e-8, 1e-5, 200)
    many = [record(k + 1, 2 + (-1) ** k, -0.5, float(rate)) for k, rate in enumerate(rates)]
    axes = figures.improvement_curves(many, {}, [], "embeddings").axes[0]
    line = next(line for line in axes.lines if line.get_color() == figures.COLOURS[0])
    assert 6 <= len(line.get_xdata()) <= figures.MOST_RATES
    assert np.all(np.diff(line.get_xdata()) > 0)
    assert np.array(line.get_ydata()) == pytest.approx(2.0, abs=0.1)
    assert len(points(axes)) == 200


def test_front_is_what_nothing_beats() -> None:
    random = np.random.default_rng(0)
    found = [(float(x), float(y)) for x, y in random.normal(size=(300, 2))]
    found += found[:20]
    by_loop = {p for p in found if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in found)}
    assert figures.front(found) == sorted(by_loop)
    assert figures.front([]) == []


def test_gain_against_worst_language() -> None:
    scaled = (part(0.25, 5.0, -0.5, -0.3), part(0.5, 7.0, -1.5, -0.1), part(0.75, 9.0, -3.0, 0.4))
    records = [*RECORDS, record(6, 12.0, 0.8, scaled=scaled)]
    figure = figures.gain_against_worst_language(records, "msmarco", records[-1])
    (axes,) = figure.axes
    labelled = {one.get_label(): one for one in (*axes.collections, *axes.lines)}
    assert labelled["feasible"].get_offsets().tolist() == [[-0.25, 0.5], [-2.0, 4.0], [-3.0, 6.0]]
    assert labelled["feasible part of a displacement"].get_offsets().tolist() == [[-0.5, 5.0], [-1.5, 7.0]]
    assert labelled["infeasible or stopped"].get_offsets().tolist() == [[-10.0, 20.0], [-6.0, 12.0]]
    assert labelled["front of whole displacements"].get_xydata().tolist() == [[-3.0, 6.0], [-2.0, 4.0], [-0.25, 0.5]]
    assert labelled["front with parts"].get_xydata().tolist() == [[-1.5, 7.0], [-0.5, 5.0], [-0.25, 0.5]]
    assert labelled["best: trial 6"].get_xydata().tolist() == [[-1.5, 7.0]]  # the part that is handed over
    assert axes.get_xlabel() == "improvement of the worst language (%)"


def test_history() -> None:
    records = [*RECORDS, record(6, 12.0, 0.8, scaled=(part(0.5, 7.0, -1.5, -0.1),)), record(7, 30.0, 0.5)]
    (axes,) = figures.history(records, "msmarco").axes
    labelled = {one.get_label(): one for one in (*axes.collections, *axes.lines)}
    assert labelled["feasible"].get_offsets().tolist() == [[1, 0.5], [2, 4.0], [3, 6.0]]
    assert labelled["feasible part of the displacement"].get_offsets().tolist() == [[6, 7.0]]
    assert labelled["stopped early"].get_offsets().tolist() == [[4, 20.0]]
    assert labelled["infeasible"].get_offsets().tolist() == [[7, 30.0]]
    assert list(labelled["failed"].get_xdata()) == [5]
    best = [[0, 0], [1, 0.5], [2, 4], [3, 6], [4, 6], [6, 7], [7, 7]]
    assert labelled["best feasible so far"].get_xydata().tolist() == best


def test_parallel_coordinates() -> None:
    space = {"learning_rate": {"low": 1e-8, "high": 1e-4, "log": True, "step": None}, "freeze": ["embeddings", "none"]}
    (axes,) = figures.parallel_coordinates(RECORDS, space, RECORDS[3]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [*space, "gain (%)", "constraint"]
    segments = np.array([segment for one in axes.collections for segment in one.get_segments()])
    assert segments.shape == (4, 4, 2)  # without the untouched encoder and the failed trial
    heights = segments[:, :, 1]
    assert sorted(heights[:, 0]) == pytest.approx([0.25, 0.5, 0.5, 1.0])  # decades above 1e-8, of four
    assert sorted(height > 0.5 for height in heights[:, 1]) == [False, True, True, True]
    assert heights[:, 2].argsort().tolist() == heights[:, 2].argsort(kind="stable").tolist()
    assert (heights[:, 2].max(), heights[:, 3].max()) == pytest.approx((1, 1))  # the stopped one, in both
    assert heights.min() >= 0
    winner = next(line for line in axes.lines if line.get_label() == "best: trial 3")
    assert winner.get_ydata()[0] == pytest.approx(0.5)


def test_importances() -> None:
    shares = {"gain": {"learning_rate": 0.7, "margin": 0.3}, "constraint": {"margin": 0.1, "learning_rate": 0.9}}
    axes = figures.importances(shares).axes
    for one, target in zip(axes, shares, strict=True):
        names = [label.get_text() for label in axes[0].get_yticklabels()]
        assert dict(zip(names, [bar.get_width() for bar in one.patches], strict=True)) == shares[target]


def pair_outcomes() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    base = torch.rand((200, 2, 3, 3), generator=random) < 0.3
    return base, base & (torch.rand(base.shape, generator=random) < torch.linspace(0.7, 1, 9).reshape(3, 3))


def test_heat_maps_of_improvement(tmp_path: Path) -> None:
    base, tuned = pair_outcomes()
    base[:, 1, 2, 2], tuned[:, 1, 2, 2] = False, True  # infinitely worse
    figure = heat_maps.improvement(base, tuned, ["de", "en", "fr"], "a title with $ and $")
    crossed = 0
    for c, axes in enumerate(figure.axes[:2]):
        cells = np.asarray(axes.images[0].get_array())
        crosses = {(int(x), int(y)) for one in axes.collections for x, y in one.get_offsets()}
        for x in range(3):
            for y in range(3):
                before, after = base[:, c, x, y].numpy(), tuned[:, c, x, y].numpy()
                b, f = int((after & ~before).sum()), int((before & ~after).sum())
                p_value = stats.binomtest(b, b + f).pvalue if b + f else 1.0
                assert ((y, x) in crosses) == (p_value >= 0.05)
                if (c, x, y) != (1, 2, 2):
                    assert cells[x, y] == pytest.approx(100 * (1 - after.sum() / before.sum()))
        crossed += len(crosses)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["de", "en", "fr"]
        assert "query" in figure.axes[0].get_ylabel()
    assert 0 < crossed < 18
    worst = figure.axes[1].images[0]
    assert worst.get_array()[2, 2] == worst.get_clim()[0]
    assert all(path.stat().st_size > 10_000 for path in figures.save(figure, tmp_path, "maps"))
    assert "a title with $ and $" in (tmp_path / "maps.svg").read_text()


def test_heat_maps_of_pnd() -> None:
    base, _ = pair_outcomes()
    figure = heat_maps.pnd(base, ["de", "en", "fr"], "untouched", largest=60.0)
    for c, axes in enumerate(figure.axes[:2]):
        assert np.asarray(axes.images[0].get_array()) == pytest.approx(100 * base[:, c].numpy().mean(0))
        assert axes.images[0].get_clim() == (0, 60)


def test_hopeless_trials_do_not_squash_the_others() -> None:
    records = [record(1, 2.0, -0.5), record(2, -80.0, 9.0, 1e-3)]
    (axes,) = figures.history(records, "msmarco").axes
    low, good, high = axes.transData.transform([(0, -80.0), (0, 0.0), (0, 2.0)])[:, 1]
    assert (high - good) / (high - low) > 0.2  # a fortieth on a linear axis
    assert axes.get_ylim()[0] < -80
    assert axes.get_ylim()[1] > 2
