"""Figures of a sweep's trials, in colours and markers that colour-blind readers can tell apart."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.evaluate.significance import SIGNIFICANT
from adiabatic_ray.report.ledger import FAILED_CONSTRAINT, UNTOUCHED, Record
from adiabatic_ray.report.regime import Regime

# Okabe and Ito 2008
FEASIBLE, SCALED, INFEASIBLE, BEST = "#0072B2", "#009E73", "#D55E00", "#000000"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = "os^Dv<>PX*"
FEW_RATES, MOST_RATES = 12, 16  # more distinct rates than the first are drawn as a line through groups of neighbours
FONTS = {"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "adiabatic-ray"}


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as `name.png` and `name.svg`."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with mpl.rc_context(FONTS):
        figure.savefig(paths[0], dpi=140)
        figure.set_layout_engine("none")  # it was laid out just now, which takes longer than to draw it
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def tuned(records: Iterable[Record]) -> list[Record]:
    """The trials that a figure can show: measured, not failed, and not the untouched encoder."""
    return [r for r in records if r.number != UNTOUCHED and not r.failed and "gain" in r.metrics]


# ---- curves over the learning rate ---------------------------------------------------------------------------------


def improvement_curves(
    records: Sequence[Record], improvements: Mapping[int, Mapping[str, Interval]], regimes: Sequence[Regime], mask: str
) -> Figure:
    """Improvement on each selection set against the learning rate, a line for each freezing mask.

    `mask` is that of trials whose configuration names none. Markers are filled where the change is significant: by the
    two-tailed test, or for XNLI, where triplets are not independent, where the interval excludes 0.
    """
    shown = tuned(records)
    sets = [key.split("/")[1] for key in shown[0].metrics if key.startswith("improvement/") and key.count("/") == 1]
    masks = list(dict.fromkeys(str(record.config.get("freeze", mask)) for record in shown))
    figure = Figure(figsize=(9, 0.9 + 2.9 * len(sets)), layout="constrained")
    panels = figure.subplots(len(sets), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, sets, strict=True):
        for position, one in enumerate(masks):
            mine = [record for record in shown if str(record.config.get("freeze", mask)) == one]
            _curve(axes, mine, improvements, name, position)
        for found in regimes:
            if found.mask in masks:
                _feasible_range(axes, found, COLOURS[masks.index(found.mask) % len(COLOURS)])
        axes.axhline(0, color="0.4", linewidth=0.8, zorder=1)
        stretch(axes, "y", [r.metrics[f"improvement/{name}"] for r in shown if r.feasible])
        axes.set_ylabel(f"improvement on\n{name} (%)")
        axes.grid(alpha=0.3)
    figure.align_ylabels(panels)
    _rate_axis(panels[-1], shown)
    figure.legend(handles=_curve_legend(masks), loc="outside upper center", ncols=2, fontsize=9)
    return figure


def outcomes_over_rate(records: Sequence[Record], objective: str) -> Figure:
    """The gain and the worst language of whole displacements against the learning rate, coloured by feasibility."""
    shown = tuned(records)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    labels = {"gain": f"gain on {objective} (%)", "worst_language": "improvement of the\nworst language (%)"}
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        _by_kind(axes, shown, [record.config["learning_rate"] for record in shown], [r.metrics[key] for r in shown])
        _frame(axes, "", label)
        stretch(axes, "y", [record.metrics[key] for record in shown if record.feasible])
    figure.align_ylabels(panels)
    _rate_axis(panels[-1], shown)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize=9)
    return figure


def _rate_axis(axes: Any, records: Sequence[Record]) -> None:
    rates = {float(record.config["learning_rate"]) for record in records}
    if len(rates) == 1:  # matplotlib would find these limits too, but warn of it on the user's terminal
        axes.set_xlim(min(rates) / 10, min(rates) * 10)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")


def _curve(
    axes: Any, records: Sequence[Record], improvements: Mapping[int, Mapping[str, Interval]], name: str, position: int
) -> None:
    colour, marker = COLOURS[position % len(COLOURS)], MARKERS[position % len(MARKERS)]
    rates = [float(record.config["learning_rate"]) for record in records]
    values = [record.metrics[f"improvement/{name}"] for record in records]
    intervals = [improvements.get(record.number, {}).get(name) for record in records]
    filled = [_significant(record, name, interval) for record, interval in zip(records, intervals, strict=True)]
    faces = [colour if fill else "white" for fill in filled]
    many = len(records) > 60
    axes.scatter(
        rates, values, s=12 if many else 34, marker=marker, facecolors=faces, edgecolors=colour,
        linewidths=0.7 if many else 1.2, alpha=0.6 if many else 1, zorder=4,
    )  # fmt: skip
    groups = _grouped(rates)
    centres = [math.exp(np.log([rates[i] for i in group]).mean()) for group in groups]
    axes.plot(centres, [np.mean([values[i] for i in group]) for group in groups], color=colour, linewidth=1.4, zorder=3)
    banded = [
        (centre, bounds)
        for centre, group in zip(centres, groups, strict=True)
        if (bounds := [(interval.low, interval.high) for i in group if (interval := intervals[i])])
    ]
    if banded:
        lows, highs = zip(*(np.mean(bounds, axis=0) for _, bounds in banded), strict=True)
        axes.fill_between([centre for centre, _ in banded], lows, highs, color=colour, alpha=0.18, linewidth=0)


def _significant(record: Record, name: str, interval: Interval | None) -> bool:
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


def _feasible_range(axes: Any, regime: Regime, colour: str) -> None:
    if regime.edge is None or regime.edge.below is None:
        return
    axes.axvspan(regime.rates[0], regime.edge.below, color=colour, alpha=0.07, linewidth=0, zorder=0)
    if regime.edge.above is not None:
        axes.axvline(regime.edge.below, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=2)


def _curve_legend(masks: Sequence[str]) -> list[Line2D]:
    named = [
        Line2D(
            [], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], label=f"frozen: {short(mask)}"
        )
        for i, mask in enumerate(masks)
    ]
    return [
        *named,
        Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="none", label="not significant"),
        Line2D([], [], color="0.3", linewidth=1.1, linestyle=(0, (4, 3)), label="end of the feasible range (shaded)"),
    ]


# ---- gain against the worst language -------------------------------------------------------------------------------


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both coordinates, by ascending first coordinate."""
    kept: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept[::-1]


def outlook(record: Record, *, scaled: bool) -> list[tuple[float, float]]:
    """Worst language and gain of what is feasible of a trial: the whole displacement, and parts of it if `scaled`."""
    parts = [part.metrics for part in record.scaled if scaled and record.state == "complete"]
    everything = [*parts, *([record.metrics] if record.feasible else [])]
    return [(part["worst_language"], part["gain"]) for part in everything if part["constraint"] <= 0]


def gain_against_worst_language(records: Sequence[Record], objective: str, winner: Record | None) -> Figure:
    """The trade between the gain and the worst language, with the fronts of what is feasible."""
    shown = tuned(records)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots()
    size, alpha = _size(shown)
    wholes = [point for record in shown for point in outlook(record, scaled=False)]
    everything = [point for record in shown for point in outlook(record, scaled=True)]
    whole = set(wholes)
    parts = [point for point in everything if point not in whole]
    others = [(r.metrics["worst_language"], r.metrics["gain"]) for r in shown if not r.feasible]
    for points, marker, colour, label in (
        (others, "x", INFEASIBLE, "infeasible or stopped"),
        (parts, "^", SCALED, "feasible part of a displacement"),
        (wholes, "o", FEASIBLE, "feasible"),
    ):
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=size, marker=marker, color=colour, alpha=alpha, label=label)
    for points, colour, style, label in (
        (everything, SCALED, (0, (5, 2)), "front with parts"),
        (wholes, FEASIBLE, "solid", "front of whole displacements"),
    ):
        if points:
            x, y = zip(*front(points), strict=True)
            axes.step(x, y, where="pre", color=colour, linewidth=1.6, linestyle=style, label=label, zorder=3)
    axes.plot(0, 0, marker="P", color="0.25", markersize=9, linestyle="none", label="untouched encoder", zorder=4)
    if winner is not None and winner.candidate is not None:
        best = winner.candidate.metrics
        axes.plot(best["worst_language"], best["gain"], linestyle="none", label=f"best: trial {winner.number}", **_RING)
    _frame(axes, "improvement of the worst language (%)", f"gain on {objective} (%)")
    stretch(axes, "x", [x for x, _ in everything])
    stretch(axes, "y", [y for _, y in everything])
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


_RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 14,
    "markerfacecolor": "none",
    "markeredgecolor": BEST,
    "markeredgewidth": 1.6,
    "zorder": 5,
}


# ---- the search ----------------------------------------------------------------------------------------------------


def history(records: Sequence[Record], objective: str) -> Figure:
    """What each trial brought, in the order of the trials, and the best feasible gain so far."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    shown = tuned(records)
    _by_kind(axes, shown, [record.number for record in shown], [_worth(record) for record in shown])
    failed = [record.number for record in records if record.failed]
    if failed:
        axes.plot(failed, [0.02] * len(failed), transform=axes.get_xaxis_transform(), linestyle="none", marker="|",
                  markersize=10, color="0.2", label="failed")  # fmt: skip
    numbers = [UNTOUCHED, *(record.number for record in shown)]
    so_far = np.maximum.accumulate([0.0, *(_worth(record) if record.candidate else 0.0 for record in shown)])
    axes.step(numbers, so_far, where="post", color=BEST, linewidth=1.4, label="best feasible so far", zorder=3)
    _frame(axes, "trial", f"gain on {objective} (%)")
    stretch(axes, "y", [_worth(record) for record in shown if record.candidate])
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


_KINDS = {
    "infeasible": ("x", INFEASIBLE),
    "stopped early": ("v", "#CC79A7"),
    "feasible part of the displacement": ("^", SCALED),
    "feasible": ("o", FEASIBLE),
}


def _by_kind(axes: Any, records: Sequence[Record], x: Sequence[float], y: Sequence[float]) -> None:
    """Scatter trials at `x` and `y` in the colours and markers of what became of them."""
    size, alpha = _size(records)
    for kind, (marker, colour) in _KINDS.items():
        mine = [i for i, record in enumerate(records) if _kind(record) == kind]
        if mine:
            axes.scatter(
                [x[i] for i in mine], [y[i] for i in mine],
                s=size, marker=marker, color=colour, alpha=alpha, label=kind,
            )  # fmt: skip


def _kind(record: Record) -> str:
    if record.candidate:
        return "feasible" if record.feasible else "feasible part of the displacement"
    return "infeasible" if record.state == "complete" else "stopped early"


def _worth(record: Record) -> float:
    """The gain of what a trial could hand over, or else of all of it."""
    return record.candidate.gain if record.candidate else float(record.metrics["gain"])


def parallel_coordinates(records: Sequence[Record], space: Mapping[str, Any], winner: Record | None) -> Figure:
    """Each trial as a line over the searched hyper-parameters, its gain and its constraint."""
    shown = [r for r in tuned(records) if r.constraint != FAILED_CONSTRAINT and all(key in r.config for key in space)]
    scales = [
        *(_searched_axis(key, space[key], [record.config[key] for record in shown]) for key in space),
        _result_axis("gain (%)", [record.metrics["gain"] for record in shown]),
        _result_axis("constraint", [record.metrics["constraint"] for record in shown]),
    ]
    figure = Figure(figsize=(max(9, 1.7 * len(scales)), 5), layout="constrained")
    axes = figure.subplots()
    lines = np.stack([heights for _, heights, _ in scales], axis=1)
    order = {"infeasible": ("0.72", 1), "feasible part of the displacement": (SCALED, 2), "feasible": (FEASIBLE, 3)}
    names = {"infeasible": "infeasible or stopped"}
    style = {"infeasible": "dotted", "feasible part of the displacement": "dashed", "feasible": "solid"}
    alpha = float(np.clip(40 / max(1, len(shown)), 0.15, 0.8))
    for kind, (colour, above) in order.items():
        mine = [i for i, record in enumerate(shown) if (_kind(record) if record.candidate else "infeasible") == kind]
        if mine:
            segments = [np.column_stack([np.arange(len(scales)), lines[i]]) for i in mine]
            width = 0.8 if len(shown) > 60 else 1.3
            axes.add_collection(
                LineCollection(
                    segments, colors=colour, linewidths=width, alpha=alpha, zorder=above, linestyles=style[kind]
                )
            )
            axes.plot([], [], color=colour, linestyle=style[kind], label=names.get(kind, kind))
    if winner in shown:
        axes.plot(lines[shown.index(winner)], color=BEST, linewidth=2.2, zorder=5, label=f"best: trial {winner.number}")
    for place, (_, _, ticks) in enumerate(scales):
        axes.axvline(place, color="0.3", linewidth=1, zorder=4)
        for height, text in ticks:
            axes.plot([place - 0.015, place], [height, height], color="0.3", linewidth=1, zorder=4)
            axes.text(place - 0.03, height, text, ha="right", va="center", fontsize=8, zorder=6, bbox=_HALO)
    axes.set_xticks(range(len(scales)), [name for name, _, _ in scales])
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.55, len(scales) - 0.9)
    axes.set_ylim(-0.04, 1.04)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, fontsize=9)
    return figure


_HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
_Axis = tuple[str, "np.ndarray[Any, Any]", list[tuple[float, str]]]


def _searched_axis(name: str, choices: Any, values: Sequence[Any]) -> _Axis:
    """A hyper-parameter's name, the trials' heights (0 to 1), and its ticks: choices spread evenly, ranges to scale."""
    if not isinstance(choices, Mapping):
        steps = sorted(choices) if all(isinstance(choice, int | float) for choice in choices) else list(choices)[::-1]
        heights = {choice: (k + 0.5) / len(steps) for k, choice in enumerate(steps)}
        ticks = [(height, "+\n".join(short(line, 20) for line in _lines(choice))) for choice, height in heights.items()]
        spread = np.linspace(-0.25, 0.25, 21)[np.arange(len(values)) * 8 % 21] / max(3, len(steps))
        return name, np.array([heights[value] for value in values]) + spread, ticks
    scale: Callable[[Any], Any] = np.log10 if choices["log"] else np.asarray
    low, high = scale(choices["low"]), scale(choices["high"])
    marks = np.linspace(choices["low"], choices["high"], 5)
    if choices["log"]:
        marks = 10.0 ** np.arange(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
        marks = marks if len(marks) > 1 else np.array([choices["low"], choices["high"]])
    ticks = [(float((scale(mark) - low) / (high - low)), f"{mark:.3g}") for mark in marks]
    return name, (scale(np.array(values, dtype=float)) - low) / (high - low), ticks


def _lines(choice: Any) -> list[Any]:
    """A choice, or the parts of a mask, which would be too wide for one line."""
    return choice.split("+") if isinstance(choice, str) else [choice]


def _result_axis(name: str, values: Sequence[float]) -> _Axis:
    """Like `_searched_axis`, for results: symmetrically logarithmic, so that hopeless trials leave room for others."""
    found = np.sign(values) * np.log1p(np.abs(values))
    low, high = min(found.min(), 0.0), max(found.max(), 0.0)
    high = high if high > low else low + 1
    heights = (found - low) / (high - low)
    ticks: list[tuple[float, str]] = []
    for mark in (0, 1, -1, 10, -10, 100, -100, 3, -3, 30, -30):
        height = float((np.sign(mark) * np.log1p(abs(mark)) - low) / (high - low))
        if -0.01 <= height <= 1.01 and all(abs(height - other) > 0.06 for other, _ in ticks):
            ticks.append((height, f"{mark:g}"))
    return name, heights, ticks


def importances(found: Mapping[str, Mapping[str, float]]) -> Figure:
    """How much each hyper-parameter matters for a high gain and for a low constraint, as bars."""
    names = list(dict.fromkeys(name for shares in found.values() for name in shares))
    names.sort(key=lambda name: sum(shares.get(name, 0.0) for shares in found.values()))
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(names)), layout="constrained")
    for axes, (target, shares) in zip(
        figure.subplots(1, len(found), sharey=True, squeeze=False)[0], found.items(), strict=True
    ):
        values = [shares.get(name, 0.0) for name in names]
        bars = axes.barh(names, values, color=FEASIBLE, height=0.6)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
        axes.set_xlim(0, 1.15 * max(*values, 1e-9))
        axes.set_title(f"for the {target}", fontsize=10)
        axes.set_xlabel("importance (share of 1)")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


# ---- axes ----------------------------------------------------------------------------------------------------------


def stretch(axes: Any, which: str, interesting: Sequence[float]) -> None:
    """Make an axis linear around the interesting values and logarithmic beyond, if the rest would squash them."""
    axis = getattr(axes, f"{which}axis")
    low, high = getattr(axes, f"get_{which}lim")()
    reach = max((abs(value) for value in interesting if math.isfinite(value)), default=1.0)
    linear = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100, math.inf) if step >= reach)
    if max(abs(low), abs(high)) <= 3 * linear:
        return
    getattr(axes, f"set_{which}scale")("symlog", linthresh=linear, linscale=1.5)
    transform = axis.get_transform()
    ends = transform.transform(np.array(getattr(axes.dataLim, f"interval{which}")))
    margin = 0.04 * (ends[1] - ends[0])
    low, high = transform.inverted().transform(np.array([ends[0] - margin, ends[1] + margin]))
    getattr(axes, f"set_{which}lim")(low, high)
    steps = [sign * linear * step for step in (0.5, 1, 3, 10, 30, 100, 300, 1000) for sign in (1, -1)]
    ticks = [tick for tick in sorted([0, *steps]) if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(FixedLocator([]))


def short(value: Any, width: int = 44) -> str:
    """A name for a figure: cut in the middle of what matplotlib would let run out of the picture, and never markup."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return textwrap.shorten(text, width, placeholder="…") if " " in text and len(text) > width else _cut(text, width)


def _cut(text: str, width: int) -> str:
    text = text if len(text) <= width else f"{text[: width // 2]}…{text[-(width // 2 - 1) :]}"
    return text.replace("$", r"\$")


def _size(shown: Sequence[Record]) -> tuple[float, float]:
    """Area and opacity of markers, for so many of them."""
    return (14.0, 0.5) if len(shown) > 300 else (24.0, 0.75) if len(shown) > 60 else (44.0, 0.95)


def _frame(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.grid(alpha=0.3)
