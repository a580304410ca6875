"""Bars of the languages of the guarded sets, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.report import charts
from adiabatic_ray.report.figures import FEASIBLE, INFEASIBLE


@dataclass(frozen=True)
class Guard:
    """The improvement of each query language of a guard in percent, and the degradation that is allowed, if any."""

    languages: Mapping[str, Interval]
    margin: float | None


def bars(guards: Mapping[str, Guard], title: str) -> Figure:
    """The improvement of each language, a panel for each guard, with 95% intervals."""
    most = max(len(guard.languages) for guard in guards.values())
    figure = Figure(figsize=(max(9.0, 4.5 * len(guards)), 1.6 + 0.27 * most), layout="constrained")
    panels = figure.subplots(1, len(guards), squeeze=False)[0]
    for axes, (name, guard) in zip(panels, guards.items(), strict=True):
        languages, intervals = list(guard.languages), list(guard.languages.values())
        values = [one.value for one in intervals]
        around = [[one.value - one.low for one in intervals], [one.high - one.value for one in intervals]]
        colours = [FEASIBLE if value >= 0 else INFEASIBLE for value in values]
        axes.barh(languages, values, height=0.6, color=colours, xerr=around, error_kw={"linewidth": 1, "capsize": 2})
        axes.invert_yaxis()
        axes.axvline(0, color="0.6", linewidth=0.8)
        if guard.margin is not None:
            axes.axvline(-guard.margin, color="0.3", linewidth=1, linestyle="--", label=f"{guard.margin:g}% allowed")
            axes.legend(loc="best", frameon=False, fontsize=8)
        axes.set_title(name.replace("$", r"\$"), fontsize=10)
        axes.set_xlabel("improvement (%)")
        axes.grid(alpha=0.3, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("language of the query")
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    return figure


def bar_charts(guards: Mapping[str, Guard]) -> list[charts.Spec]:
    """The same for the pointer, a chart for each guard."""
    return [_chart(name, guard) for name, guard in guards.items()]


def _chart(name: str, guard: Guard) -> charts.Spec:
    rows = [
        {
            "language": language,
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "colour": FEASIBLE if one.value >= 0 else INFEASIBLE,
            "tip": {"language": language, "improvement": charts.estimate(one.value, one)},
        }
        for language, one in guard.languages.items()
    ]
    y = {"field": "language", "type": "nominal", "sort": None, "title": "language of the query"}
    x, tooltip = charts.number("value", f"improvement on {name} (%)", {"type": "linear"}), charts.TIP
    colour = {"field": "colour", "type": "nominal", "scale": None}
    shown = {"data": {"values": rows}, "mark": {"type": "bar", "tooltip": tooltip}}
    whiskers = {"data": {"values": rows}, "mark": {"type": "rule", "color": charts.INK, "tooltip": tooltip}}
    dashed = {"strokeDash": [4, 3], "color": charts.INK}
    allowed = [charts.rule("x", -guard.margin, **dashed)] if guard.margin is not None else []
    return charts.chart(
        {**shown, "encoding": {"x": x, "y": y, "color": colour}},
        {**whiskers, "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y}},
        charts.zero("x"),
        *allowed,
        height=max(120, 22 * len(rows)),
    )
