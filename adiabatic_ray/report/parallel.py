"""Parallel coordinates: each trial as a line over the searched hyper-parameters, its gain and its constraint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from adiabatic_ray import config
from adiabatic_ray.report import charts
from adiabatic_ray.report.figures import BEST, FEASIBLE, SCALED, measured, short
from adiabatic_ray.trials.record import TrialRecord

Space = Mapping[str, config.Range | list[config.Scalar]]
Heights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Scale:
    """One of the parallel axes: its name, each trial's height on it (0 to 1), and its ticks."""

    name: str
    heights: Heights
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class _Style:
    """How the lines of trials are drawn that ended alike."""

    label: str
    colour: str
    line: str


_STYLES = (  # from the lowest to the uppermost
    _Style("infeasible or stopped", "0.72", "dotted"),
    _Style("feasible part of the displacement", SCALED, "dashed"),
    _Style("feasible", FEASIBLE, "solid"),
)


def coordinates(records: Sequence[TrialRecord], space: Space, winner: TrialRecord | None) -> Figure:
    """Each measured trial as a line over the searched hyper-parameters, its gain and its constraint.

    Gain and constraint are those of the whole displacement.
    """
    shown, scales = _scales(records, space)
    lines = np.stack([scale.heights for scale in scales], axis=1)
    figure = Figure(figsize=(max(9, 1.7 * len(scales)), 5), layout="constrained")
    axes = figure.subplots()
    _draw_trials(axes, shown, lines)
    if winner in shown:
        axes.plot(lines[shown.index(winner)], color=BEST, linewidth=2.2, zorder=5, label=f"best: trial {winner.number}")
    _draw_scales(axes, scales)
    figure.legend(loc="outside upper center", ncols=4, fontsize=9)
    return figure


def chart(records: Sequence[TrialRecord], space: Space, winner: TrialRecord | None) -> charts.Spec:
    """The same for the pointer."""
    shown, scales = _scales(records, space)
    rows = [
        {
            "trial": record.number,
            "axis": place,
            "height": float(scale.heights[i]),
            "kind": _style(record).label,
            "best": record is winner,
        }
        for i, record in enumerate(shown)
        for place, scale in enumerate(scales)
    ]
    ticks = [
        {"axis": place, "height": height, "text": text.splitlines()}
        for place, scale in enumerate(scales)
        for height, text in scale.ticks
    ]
    hidden = {"axis": None, "scale": {"domain": [-0.04, 1.04], "nice": False}}
    y = {"field": "height", "type": "quantitative", **hidden}
    names = f"{json.dumps([scale.name for scale in scales])}[datum.value]"
    x = {
        "field": "axis",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": [-0.55, len(scales) - 0.9], "nice": False},
        "axis": {"values": list(range(len(scales))), "labelExpr": names, "labelOverlap": True, "domain": False},
    }
    labels = [style.label for style in _STYLES]
    scale = {"domain": labels, "range": [style.colour for style in _STYLES]}
    seen = float(np.clip(40 / max(1, len(shown)), 0.15, 0.8))
    lines = {
        "data": {"values": rows},
        "params": [charts.chosen("kind")],
        "mark": {"type": "line", "tooltip": charts.TIP},
        "encoding": {
            "x": x,
            "y": y,
            "detail": {"field": "trial"},
            "color": {
                "condition": {"test": "datum.best", "value": charts.INK},
                "field": "kind",
                "type": "nominal",
                "scale": scale,
                "legend": {**charts.LEGEND, "title": None},
            },
            "opacity": {"condition": [{**charts.FOCUS, "value": 1}, {"param": "kind", "value": seen}], "value": 0.02},
            "strokeWidth": {
                "condition": [{**charts.FOCUS, "value": 4}, {"test": "datum.best", "value": 2.5}],
                "value": 1.5,
            },
        },
    }
    texts = {
        "data": {"values": ticks},
        "mark": {"type": "text", "align": "right", "dx": -5, "fontSize": 10},
        "encoding": {"x": x, "y": y, "text": {"field": "text"}},
    }
    return charts.chart(lines, texts, height=340)


def _scales(records: Sequence[TrialRecord], space: Space) -> tuple[list[TrialRecord], list[_Scale]]:
    """The trials that are drawn, and the parallel axes."""
    shown = [record for record in measured(records) if all(key in record.config for key in space)]
    return shown, [
        *(_searched(key, choices, [record.config[key] for record in shown]) for key, choices in space.items()),
        _result("gain (%)", [record.metrics["gain"] for record in shown]),
        _result("constraint", [record.metrics["constraint"] for record in shown]),
    ]


def _draw_trials(axes: Axes, shown: Sequence[TrialRecord], lines: Heights) -> None:
    """Draw the trials, those that are feasible above the others."""
    alpha = float(np.clip(40 / max(1, len(shown)), 0.15, 0.8))
    width = 0.8 if len(shown) > 60 else 1.3
    for above, style in enumerate(_STYLES, start=1):
        segments = [
            np.column_stack([np.arange(len(line)), line])
            for record, line in zip(shown, lines, strict=True)
            if _style(record) is style
        ]
        if segments:
            look: dict[str, Any] = {"linewidths": width, "alpha": alpha, "zorder": above, "linestyles": style.line}
            axes.add_collection(LineCollection(segments, colors=style.colour, **look))
            axes.plot([], [], color=style.colour, linestyle=style.line, label=style.label)


def _style(record: TrialRecord) -> _Style:
    infeasible, scaled, feasible = _STYLES
    return feasible if record.feasible else scaled if record.candidate else infeasible


def _draw_scales(axes: Axes, scales: Sequence[_Scale]) -> None:
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    for place, scale in enumerate(scales):
        axes.axvline(place, color="0.3", linewidth=1, zorder=4)
        for height, text in scale.ticks:
            axes.plot([place - 0.015, place], [height, height], color="0.3", linewidth=1, zorder=4)
            axes.text(place - 0.03, height, text, ha="right", va="center", fontsize=8, zorder=6, bbox=halo)
    axes.set_xticks(range(len(scales)), [scale.name for scale in scales])
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.55, len(scales) - 0.9)
    axes.set_ylim(-0.04, 1.04)
    axes.spines[:].set_visible(False)


def _searched(name: str, choices: config.Range | list[config.Scalar], values: Sequence[Any]) -> _Scale:
    """The scale of a hyper-parameter."""
    return _of_choices(name, choices, values) if isinstance(choices, list) else _of_range(name, choices, values)


def _of_choices(name: str, choices: list[config.Scalar], values: Sequence[config.Scalar]) -> _Scale:
    """Choices lie evenly spread. Trials that share one are spread a little around it."""
    numbers = [choice for choice in choices if not isinstance(choice, str)]
    steps = sorted(numbers) if len(numbers) == len(choices) else choices[::-1]
    heights = {choice: (k + 0.5) / len(steps) for k, choice in enumerate(steps)}
    spread = np.linspace(-0.25, 0.25, 21)[np.arange(len(values)) * 8 % 21] / max(3, len(steps))
    ticks = [(height, "+\n".join(short(line, 20) for line in _lines(choice))) for choice, height in heights.items()]
    return _Scale(name, np.array([heights[value] for value in values]) + spread, ticks)


def _lines(choice: config.Scalar) -> Sequence[config.Scalar]:
    """A choice, or the parts of a mask, which would be too wide for one line."""
    return choice.split("+") if isinstance(choice, str) else [choice]


def _of_range(name: str, interval: config.Range, values: Sequence[float]) -> _Scale:
    """A range lies on its own scale, linear or logarithmic, with a tick at each power of ten or at each quarter."""
    scale: Callable[[Any], Any] = np.log10 if interval.log else np.asarray
    low, high = scale(interval.low), scale(interval.high)
    marks = np.linspace(interval.low, interval.high, 5)
    if interval.log:
        marks = 10.0 ** np.arange(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
        marks = marks if len(marks) > 1 else np.array([interval.low, interval.high])
    ticks = [(float((scale(mark) - low) / (high - low)), f"{mark:.3g}") for mark in marks]
    return _Scale(name, (scale(np.array(values, dtype=float)) - low) / (high - low), ticks)


def _result(name: str, values: Sequence[float]) -> _Scale:
    """Results lie on a symmetrically logarithmic scale, so that hopeless trials leave room for the others."""
    compressed = np.sign(values) * np.log1p(np.abs(values))
    low, high = min(compressed.min(), 0.0), max(compressed.max(), 0.0)
    high = high if high > low else low + 1
    ticks: list[tuple[float, str]] = []
    for mark in (0, 1, -1, 10, -10, 100, -100, 3, -3, 30, -30):
        height = float((np.sign(mark) * np.log1p(abs(mark)) - low) / (high - low))
        if -0.01 <= height <= 1.01 and all(abs(height - other) > 0.06 for other, _ in ticks):
            ticks.append((height, f"{mark:g}"))
    return _Scale(name, (compressed - low) / (high - low), ticks)
