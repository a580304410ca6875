"""How much each hyper-parameter matters, as bars."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from adiabatic_ray.report import charts
from adiabatic_ray.report.figures import FEASIBLE

Importances = Mapping[str, Mapping[str, float]]  # shares of 1 by hyper-parameter, for each target


def bars(importances: Importances) -> Figure:
    """The share of each hyper-parameter in a high gain and in a low constraint, a panel for each target."""
    names = _ascending(importances)
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(importances), sharey=True, squeeze=False)[0]
    for axes, (target, shares) in zip(panels, importances.items(), strict=True):
        values = [shares.get(name, 0.0) for name in names]
        drawn = axes.barh(names, values, color=FEASIBLE, height=0.6)
        axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=9)
        axes.set_xlim(0, 1.15 * max(*values, 1e-9))
        axes.set_title(f"for the {target}", fontsize=10)
        axes.set_xlabel("importance (share of 1)")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def bar_charts(importances: Importances) -> list[charts.Spec]:
    """The same for the pointer, a chart for each target."""
    names = _ascending(importances)[::-1]
    return [_chart(target, {name: shares.get(name, 0.0) for name in names}) for target, shares in importances.items()]


def _chart(target: str, shares: Mapping[str, float]) -> charts.Spec:
    rows = [
        {
            "name": name,
            "value": share,
            "tip": {"for": f"the {target}", "hyper-parameter": name, "share": f"{share:.2f}"},
        }
        for name, share in shares.items()
    ]
    x = charts.number("value", f"importance for the {target} (share of 1)", {"type": "linear", "domain": [0, 1]})
    y = {"field": "name", "type": "nominal", "sort": None, "title": None}
    mark = {"type": "bar", "color": FEASIBLE, "tooltip": charts.TIP}
    bars = {"data": {"values": rows}, "mark": mark, "encoding": {"x": x, "y": y}}
    return charts.chart(bars, height=max(80, 26 * len(rows)))


def _ascending(importances: Importances) -> list[str]:
    """The hyper-parameters, the most important last."""
    names = dict.fromkeys(name for shares in importances.values() for name in shares)
    return sorted(names, key=lambda name: sum(shares.get(name, 0.0) for shares in importances.values()))
