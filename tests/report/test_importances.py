"""Bars of importances: read back from the figure."""

from __future__ import annotations

from matplotlib.patches import Rectangle

from adiabatic_ray.report import importances


def test_bars() -> None:
    shares = {"gain": {"learning_rate": 0.7, "margin": 0.3}, "constraint": {"margin": 0.1, "learning_rate": 0.9}}
    panels = importances.bars(shares).axes
    names = [label.get_text() for label in panels[0].get_yticklabels()]
    assert names == ["margin", "learning_rate"]  # the most important is on top
    for axes, (target, expected) in zip(panels, shares.items(), strict=True):
        widths = [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]
        assert axes.get_title() == f"for the {target}"
        assert dict(zip(names, widths, strict=True)) == expected
