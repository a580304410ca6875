"""Bars of languages: read back from the figure."""

from __future__ import annotations

import pytest
from matplotlib.container import BarContainer
from matplotlib.patches import Rectangle

from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.report import languages


def test_bars_and_intervals() -> None:
    intervals = {"de": Interval(1.5, -0.5, 2.5), "tr": Interval(-4.0, -6.0, -3.0)}
    guards = {"xnli": languages.Guard(intervals, 3.0), "ndcg_at_10/archive": languages.Guard(intervals, None)}
    figure = languages.bars(guards, "Improvement")
    assert [axes.get_title() for axes in figure.axes] == list(guards)
    for axes in figure.axes:
        (container,) = [one for one in axes.containers if isinstance(one, BarContainer)]
        widths = [bar.get_width() for bar in container.patches if isinstance(bar, Rectangle)]
        assert dict(zip([label.get_text() for label in axes.get_yticklabels()], widths, strict=True)) == {
            "de": 1.5,
            "tr": -4.0,
        }
        assert container.errorbar is not None
        ((segments, *_),) = [[lines.get_segments() for lines in container.errorbar.lines[2]]]
        assert [(one[0][0], one[1][0]) for one in segments] == [pytest.approx((-0.5, 2.5)), pytest.approx((-6.0, -3.0))]
    lines = [[line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] for axes in figure.axes]
    assert lines == [[-3.0], []]  # the degradation that is allowed
