"""The profiles of the best trials: gain and constraint over the scale of the displacement, and where the edge lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adiabatic_ray.report import charts
from adiabatic_ray.report.figures import COLOURS, MARKERS, frame, ring, stretch
from adiabatic_ray.trials.record import TrialRecord, contenders

MOST_TRIALS = 4


def profiled(records: Sequence[TrialRecord], winner: TrialRecord | None) -> list[TrialRecord]:
    """The trial that is handed over and the best others, at most `MOST_TRIALS`, of those that have a profile."""
    first = sorted(contenders(records), key=lambda record: record != winner)
    return [record for record in first if record.profile][:MOST_TRIALS]


def over_scale(records: Sequence[TrialRecord], objective: str, winner: TrialRecord | None) -> Figure:
    """Gain and constraint of the best trials over the scale: lines as predicted, markers as measured.

    A ring marks the edge of each trial, and a large one what is handed over.
    """
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    labels = {"gain": f"gain on {objective} (%)", "constraint": "constraint\n(feasible at 0 or below)"}
    shown = profiled(records, winner)
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        for position, record in enumerate(shown):
            _profile(axes, record, key, position)
        if winner is not None and winner.candidate is not None:
            handed_over = f"handed over: trial {winner.number}"
            ring(axes, winner.candidate.scale, winner.candidate.metrics[key], handed_over)
        frame(axes, "", label)
        stretch(axes, "y", [getattr(p, key) for record in shown for p in record.profile if p.constraint <= 0])
    panels[-1].set_xscale("log")
    panels[-1].set_xlabel("scale of the displacement")
    figure.align_ylabels(panels)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, fontsize=9)
    return figure


def over_scale_charts(records: Sequence[TrialRecord], objective: str, winner: TrialRecord | None) -> list[charts.Spec]:
    """The same for the pointer, a chart for each panel."""
    shown = profiled(records, winner)
    names = [f"trial {record.number}" for record in shown]
    colours = {"domain": names, "range": list(COLOURS[: len(names)])}
    colour = {"field": "name", "type": "nominal", "scale": colours, "legend": {**charts.LEGEND, "title": None}}
    return [
        _chart(shown, key, label, colour)
        for key, label in {
            "gain": f"gain on {objective} (%)",
            "constraint": "constraint (feasible at 0 or below)",
        }.items()
    ]


def _chart(shown: Sequence[TrialRecord], key: str, label: str, colour: charts.Spec) -> charts.Spec:
    predicted = [
        {"name": f"trial {record.number}", "scale": point.scale, "value": getattr(point, key)}
        for record in shown
        for point in record.profile
    ]
    exact = [
        {
            "trial": record.number,
            "name": f"trial {record.number}",
            "scale": one.scale,
            "value": one.metrics[key],
            "best": one == record.edge,
            "tip": {"here": f"scale {one.scale:.3g}", f"measured {key}": f"{one.metrics[key]:+.2f}"},
        }
        for record in shown
        for one in (*record.scaled, record.whole)
    ]
    inside = [getattr(point, key) for record in shown for point in record.profile if point.constraint <= 0]
    y = charts.number("value", label, charts.stretched([one["value"] for one in [*predicted, *exact]], inside))
    x = {**charts.rate("scale"), "title": "scale of the displacement", "axis": {"format": "~g"}}
    seen = {"x": x, "y": y, "color": colour}
    seen["opacity"] = {"condition": {"param": "name", "value": 1}, "value": 0.08}
    lines = {"data": {"values": predicted}, "mark": {"type": "line", "strokeWidth": 1.5}, "encoding": seen}
    points = {
        "data": {"values": exact},
        "params": [*charts.zoom(), charts.chosen("name")],
        "mark": {"type": "point", "filled": True, "tooltip": charts.TIP, "stroke": charts.INK},
        "encoding": {
            **seen,
            "size": {"condition": {**charts.FOCUS, "value": 200}, "value": 80},
            "strokeWidth": {"condition": {"test": "datum.best", "value": 2}, "value": 0},
        },
    }
    return charts.chart(charts.zero(), lines, points)


def _profile(axes: Axes, record: TrialRecord, key: str, position: int) -> None:
    colour, marker = COLOURS[position % len(COLOURS)], MARKERS[position % len(MARKERS)]
    scales = [point.scale for point in record.profile]
    axes.plot(scales, [getattr(point, key) for point in record.profile], color=colour, linewidth=1.3)
    exact = [*record.scaled, record.whole]
    style: dict[str, Any] = {"color": colour, "marker": marker, "s": 34, "zorder": 4}
    values = [one.metrics[key] for one in exact]
    axes.scatter([one.scale for one in exact], values, label=f"trial {record.number}, measured", **style)
    if record.edge is not None:
        ring(axes, record.edge.scale, record.edge.metrics[key], "_edge", colour=colour, size=10)
