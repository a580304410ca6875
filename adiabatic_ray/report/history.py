"""The course of the search: what each trial brought, and the best feasible gain so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adiabatic_ray.report.figures import BEST, frame, measured, scatter_by_kind, stretch
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
    numbers = [UNTOUCHED, *(record.number for record in shown)]
    so_far = np.maximum.accumulate([0.0, *(record.candidate.gain if record.candidate else 0.0 for record in shown)])
    axes.step(numbers, so_far, where="post", color=BEST, linewidth=1.4, label="best feasible so far", zorder=3)
    frame(axes, "trial", f"gain on {objective} (%)")
    stretch(axes, "y", [record.candidate.gain for record in shown if record.candidate])
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


def _gain(record: TrialRecord) -> float:
    return record.candidate.gain if record.candidate else record.metrics["gain"]


def _failed(axes: Axes, numbers: Sequence[int]) -> None:
    """Mark the failed trials, which have no gain, at the foot of the figure."""
    if numbers:
        foot = axes.get_xaxis_transform()
        mark: dict[str, Any] = {"linestyle": "none", "marker": "|", "markersize": 10, "color": "0.2"}
        axes.plot(numbers, [0.02] * len(numbers), transform=foot, label="failed", **mark)
