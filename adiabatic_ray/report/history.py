"""The course of the search: what each trial brought, and the best feasible gain so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adiabatic_ray.report import charts
from adiabatic_ray.report.figures import BEST, frame, kind, measured, scatter_by_kind, stretch
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord


def gains(records: Sequence[TrialRecord], objective: str) -> Figure:
    """The gain of each trial in the order of the trials, with the best feasible gain so far.

    The gain is that of the trial's candidate, or of the whole displacement where it has none.
    """
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    shown = measured(records)
    scatter_by_kind(axes, shown, [record.number for record in shown], [_gain(record) for record in shown])
    _failed(axes, [record.number for record in records if record.failed])
    axes.step(*_best_so_far(shown), where="post", color=BEST, linewidth=1.4, label="best feasible so far", zorder=3)
    frame(axes, "trial", f"gain on {objective} (%)")
    stretch(axes, "y", [record.candidate.gain for record in shown if record.candidate])
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


def chart(records: Sequence[TrialRecord], objective: str) -> charts.Spec:
    """The same for the pointer."""
    shown = measured(records)
    rows: charts.Rows = [{"trial": r.number, "number": r.number, "gain": _gain(r), "kind": kind(r)} for r in shown]
    scale = charts.stretched([row["gain"] for row in rows], [r.candidate.gain for r in shown if r.candidate])
    x, y = (
        charts.number("number", "trial", {"type": "linear", "nice": False, "padding": 12}),
        charts.number("gain", f"gain on {objective} (%)", scale),
    )
    steps = [{"number": n, "gain": float(gain)} for n, gain in zip(*_best_so_far(shown), strict=True)]
    so_far = charts.line(steps, x, y, charts.INK, interpolate="step-after", strokeWidth=1.4)
    return charts.chart(charts.zero(), so_far, charts.trials(rows, x, y))


def _best_so_far(shown: Sequence[TrialRecord]) -> tuple[list[int], Sequence[float]]:
    """The numbers of the trials, and the best feasible gain up to each."""
    gains = [0.0, *(record.candidate.gain if record.candidate else 0.0 for record in shown)]
    return [UNTOUCHED, *(record.number for record in shown)], np.maximum.accumulate(gains).tolist()


def _gain(record: TrialRecord) -> float:
    return record.candidate.gain if record.candidate else record.metrics["gain"]


def _failed(axes: Axes, numbers: Sequence[int]) -> None:
    """Mark the failed trials, which have no gain, at the foot of the figure."""
    if numbers:
        foot = axes.get_xaxis_transform()
        mark: dict[str, Any] = {"linestyle": "none", "marker": "|", "markersize": 10, "color": "0.2"}
        axes.plot(numbers, [0.02] * len(numbers), transform=foot, label="failed", **mark)
