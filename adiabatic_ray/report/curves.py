"""Figures over the learning rate: improvement curves of each freezing mask, and what became of the trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.evaluate.significance import SIGNIFICANT
from adiabatic_ray.report import charts
from adiabatic_ray.report.figures import COLOURS, MARKERS, frame, kind, measured, scatter_by_kind, short, stretch
from adiabatic_ray.report.regime import Regime
from adiabatic_ray.trials.record import TrialRecord

FEW_RATES, MOST_RATES = 12, 16  # more distinct rates than the first are drawn as a line through groups of neighbours
DASHES = (0, (4, 3))

Improvements = Mapping[int, Mapping[str, Interval]]  # by the trial's number and the set's name


def improvement(
    records: Sequence[TrialRecord],
    sets: Sequence[str],
    improvements: Improvements,
    regimes: Sequence[Regime],
    default_mask: str,
) -> Figure:
    """Improvement on each selection set against the learning rate, a line for each freezing mask.

    `default_mask` is that of trials whose configuration names none. Markers are filled where the change is significant:
    by the two-tailed test, or for XNLI, where triplets are not independent, where the interval excludes 0.
    """
    shown = measured(records)
    by_mask: dict[str, list[TrialRecord]] = {}
    for record in shown:
        by_mask.setdefault(_mask(record, default_mask), []).append(record)
    figure = Figure(figsize=(9, 0.9 + 2.9 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, sets, strict=True):
        for position, mine in enumerate(by_mask.values()):
            _curve(axes, mine, improvements, name, position)
        _feasible_ranges(axes, regimes, list(by_mask))
        axes.axhline(0, color="0.4", linewidth=0.8, zorder=1)
        stretch(axes, "y", [record.metrics[f"improvement/{name}"] for record in shown if record.feasible])
        axes.set_ylabel(f"improvement on\n{name} (%)")
        axes.grid(alpha=0.3)
    figure.align_ylabels(panels)
    _rate_axis(panels[-1], shown)
    figure.legend(handles=_legend(list(by_mask)), loc="outside upper center", ncols=2, fontsize=9)
    return figure


def outcomes(records: Sequence[TrialRecord], objective: str) -> Figure:
    """The gain and the worst language of whole displacements against the learning rate, coloured by feasibility."""
    shown = measured(records)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    labels = {"gain": f"gain on {objective} (%)", "worst_language": "improvement of the\nworst language (%)"}
    rates = [record.config["learning_rate"] for record in shown]
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        scatter_by_kind(axes, shown, rates, [record.metrics[key] for record in shown])
        frame(axes, "", label)
        stretch(axes, "y", [record.metrics[key] for record in shown if record.feasible])
    figure.align_ylabels(panels)
    _rate_axis(panels[-1], shown)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize=9)
    return figure


def outcomes_charts(records: Sequence[TrialRecord], objective: str) -> list[charts.Spec]:
    """`outcomes` for the pointer, a chart for each panel."""
    shown = measured(records)
    drawn = []
    for key, label in {
        "gain": f"gain on {objective} (%)",
        "worst_language": "improvement of the worst language (%)",
    }.items():
        rows = [
            {
                "trial": r.number,
                "rate": r.config["learning_rate"],
                "y": r.metrics[key],
                "kind": kind(r),
            }
            for r in shown
        ]
        scale = charts.stretched([row["y"] for row in rows], [r.metrics[key] for r in shown if r.feasible])
        points = charts.trials(rows, charts.rate(), charts.number("y", label, scale))
        drawn.append(charts.chart(charts.zero(), points))
    return drawn


def improvement_charts(
    records: Sequence[TrialRecord],
    sets: Sequence[str],
    improvements: Improvements,
    regimes: Sequence[Regime],
    default_mask: str,
) -> list[charts.Spec]:
    """`improvement` for the pointer, a chart for each set. Its intervals are those of each trial."""
    shown = measured(records)
    masks = list(dict.fromkeys(_mask(record, default_mask) for record in shown))
    ranges = [one for one in regimes if one.mask in masks and one.edge is not None and one.edge.below is not None]
    drawn = []
    for name in sets:
        rows = [
            _point(record, name, improvements.get(record.number, {}).get(name), _mask(record, default_mask))
            | {"colour": COLOURS[masks.index(_mask(record, default_mask)) % len(COLOURS)]}
            for record in shown
        ]
        drawn.append(_chart(rows, name, masks, ranges))
    return drawn


def _point(record: TrialRecord, name: str, interval: Interval | None, mask: str) -> dict[str, Any]:
    value = record.metrics[f"improvement/{name}"]
    return {
        "trial": record.number,
        "rate": float(record.config["learning_rate"]),
        "value": value,
        "low": interval.low if interval else value,
        "high": interval.high if interval else value,
        "mask": short(mask),
        "feasible": record.feasible,
        "significant": _significant(record, name, interval),
        "tip": {f"improvement on {name}": charts.estimate(value, interval)},
    }


def _chart(rows: charts.Rows, name: str, masks: Sequence[str], ranges: Sequence[Regime]) -> charts.Spec:
    names = [short(mask) for mask in masks]
    colours = {"domain": names, "range": [COLOURS[i % len(COLOURS)] for i in range(len(masks))]}
    legend = {**charts.LEGEND, "title": "frozen", "symbolFillColor": "transparent"}
    colour = {"field": "mask", "type": "nominal", "scale": colours, "legend": legend}
    inside = [row["value"] for row in rows if row["feasible"]]
    scale = charts.stretched([row["value"] for row in rows], inside)
    x, y = charts.rate(), charts.number("value", f"improvement on {name} (%)", scale)
    means = [mean for mask in names for mean in _means([row for row in rows if row["mask"] == mask])]
    shaded = [
        {"mask": short(one.mask), "low": one.rates[0], "high": one.edge.below} for one in ranges if one.edge is not None
    ]

    def layer(values: charts.Rows, mark: charts.Spec, opacity: float, **encoding: Any) -> charts.Spec:
        """Marks in the colours of their masks, which nearly vanish where the legend chose others."""
        chosen = {"condition": {"param": "mask", "value": opacity}, "value": 0.04}
        return {"data": {"values": values}, "mark": mark, "encoding": {"color": colour, "opacity": chosen, **encoding}}

    points = layer(
        rows,
        {"type": "point", "tooltip": charts.TIP},
        0.9,
        x=x,
        y=y,
        fill={"field": "colour", "type": "nominal", "scale": None},
        fillOpacity={"condition": {"test": "datum.significant", "value": 1}, "value": 0},
        size={"condition": {**charts.FOCUS, "value": 260}, "value": 60},
    )
    return charts.chart(
        layer(shaded, {"type": "rect"}, 0.07, x={**x, "field": "low"}, x2={"field": "high"}),
        layer(shaded, {"type": "rule", "strokeDash": [4, 3]}, 0.9, x={**x, "field": "high"}),
        charts.zero(),
        layer(rows, {"type": "rule"}, 0.3, x=x, y={**y, "field": "low"}, y2={"field": "high"}),
        layer(means, {"type": "line", "strokeWidth": 1.4}, 0.9, x=x, y=y),
        {**points, "params": [*charts.zoom(), charts.chosen("mask")]},
    )


def _means(rows: charts.Rows) -> charts.Rows:
    """The line of one mask: the mean of the trials that share a rate, or of neighbouring rates."""
    groups = [[rows[i] for i in group] for group in _grouped([row["rate"] for row in rows])]
    return [
        {
            "mask": group[0]["mask"],
            "rate": math.exp(np.log([row["rate"] for row in group]).mean()),
            "value": float(np.mean([row["value"] for row in group])),
        }
        for group in groups
    ]


def _mask(record: TrialRecord, default: str) -> str:
    return str(record.config.get("freeze", default))


def _rate_axis(axes: Axes, records: Sequence[TrialRecord]) -> None:
    rates = {float(record.config["learning_rate"]) for record in records}
    if len(rates) == 1:  # matplotlib would choose these limits too, but warn of it on the user's terminal
        axes.set_xlim(min(rates) / 10, min(rates) * 10)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")


def _curve(axes: Axes, records: Sequence[TrialRecord], improvements: Improvements, name: str, position: int) -> None:
    """The trials of one mask on one set: their points, a line through the means of each rate, and a band."""
    colour, marker = COLOURS[position % len(COLOURS)], MARKERS[position % len(MARKERS)]
    rates = [float(record.config["learning_rate"]) for record in records]
    values = [record.metrics[f"improvement/{name}"] for record in records]
    intervals = [improvements.get(record.number, {}).get(name) for record in records]
    filled = [_significant(record, name, interval) for record, interval in zip(records, intervals, strict=True)]
    faces = [colour if fill else "white" for fill in filled]
    size, width, alpha = (12, 0.7, 0.6) if len(records) > 60 else (34, 1.2, 1)
    style: dict[str, Any] = {"marker": marker, "s": size, "linewidths": width, "alpha": alpha, "zorder": 4}
    axes.scatter(rates, values, facecolors=faces, edgecolors=colour, **style)
    groups = _grouped(rates)
    centres = [math.exp(np.log([rates[i] for i in group]).mean()) for group in groups]
    axes.plot(centres, [np.mean([values[i] for i in group]) for group in groups], color=colour, linewidth=1.4, zorder=3)
    _band(axes, centres, [[intervals[i] for i in group] for group in groups], colour)


def _band(axes: Axes, centres: Sequence[float], groups: Sequence[Sequence[Interval | None]], colour: str) -> None:
    """Fill between the mean bounds of each group's intervals; a group without intervals is left out."""
    known = [[(interval.low, interval.high) for interval in group if interval] for group in groups]
    banded = [(centre, *np.mean(bounds, axis=0)) for centre, bounds in zip(centres, known, strict=True) if bounds]
    if banded:
        x, lows, highs = zip(*banded, strict=True)
        axes.fill_between(x, lows, highs, color=colour, alpha=0.18, linewidth=0)


def _significant(record: TrialRecord, name: str, interval: Interval | None) -> bool:
    if f"p_value/{name}" in record.metrics:
        return record.metrics[f"p_value/{name}"] < SIGNIFICANT
    return interval is not None and not interval.low <= 0 <= interval.high


def _grouped(rates: Sequence[float]) -> list[list[int]]:
    """Positions of trials that share a rate, ascending; where nearly every trial has its own, of neighbouring rates."""
    distinct = sorted(set(rates))
    if len(distinct) <= FEW_RATES:
        return [[i for i, rate in enumerate(rates) if rate == one] for one in distinct]
    bounds = np.geomspace(distinct[0], distinct[-1], 1 + min(MOST_RATES, max(6, len(distinct) // 4)))
    place = np.searchsorted(bounds[1:-1], rates, side="right")
    return [np.flatnonzero(place == k).tolist() for k in sorted(set(place.tolist()))]


def _feasible_ranges(axes: Axes, regimes: Sequence[Regime], masks: Sequence[str]) -> None:
    """Shade the rates up to each mask's edge, and draw the edge where it was reached."""
    for regime in regimes:
        if regime.mask not in masks or regime.edge is None or regime.edge.below is None:
            continue
        colour = COLOURS[masks.index(regime.mask) % len(COLOURS)]
        axes.axvspan(regime.rates[0], regime.edge.below, color=colour, alpha=0.07, linewidth=0, zorder=0)
        if regime.edge.above is not None:
            axes.axvline(regime.edge.below, color=colour, linewidth=1.1, linestyle=DASHES, zorder=2)


def _legend(masks: Sequence[str]) -> list[Line2D]:
    handles = []
    for i, mask in enumerate(masks):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        handles.append(Line2D([], [], color=colour, marker=marker, label=f"frozen: {short(mask)}"))
    return [
        *handles,
        Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="none", label="not significant"),
        Line2D([], [], color="0.3", linewidth=1.1, linestyle=DASHES, label="end of the feasible range (shaded)"),
    ]
