"""What all figures share: colours and markers that colour-blind readers can tell apart, files, and axes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from adiabatic_ray.trials.record import TrialRecord, tuned

# Okabe and Ito 2008
FEASIBLE, SCALED, INFEASIBLE, BEST = "#0072B2", "#009E73", "#D55E00", "#000000"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = "os^Dv<>PX*"
FONTS = {"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "adiabatic-ray"}

Kind = Literal["infeasible", "stopped early", "feasible part of the displacement", "feasible"]
KINDS: dict[Kind, tuple[str, str]] = {  # marker and colour, in the order in which they are drawn
    "infeasible": ("x", INFEASIBLE),
    "stopped early": ("v", "#CC79A7"),
    "feasible part of the displacement": ("^", SCALED),
    "feasible": ("o", FEASIBLE),
}


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as `name.png` and `name.svg`."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with mpl.rc_context(FONTS):
        figure.savefig(paths[0], dpi=140)
        figure.set_layout_engine("none")  # it was laid out just now, which takes longer than to draw it
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def measured(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that a figure can show: measured, not failed, and not the untouched encoder."""
    return [record for record in tuned(records) if not record.failed and "gain" in record.metrics]


def kind(record: TrialRecord) -> Kind:
    """What became of a measured trial."""
    if record.candidate:
        return "feasible" if record.feasible else "feasible part of the displacement"
    return "infeasible" if record.state == "complete" else "stopped early"


def scatter_by_kind(axes: Axes, records: Sequence[TrialRecord], x: Sequence[float], y: Sequence[float]) -> None:
    """Scatter trials at `x` and `y`, each kind in its own colour and marker."""
    size, alpha = marker_size(records)
    for one, (marker, colour) in KINDS.items():
        mine = [i for i, record in enumerate(records) if kind(record) == one]
        if mine:
            axes.scatter(
                [x[i] for i in mine], [y[i] for i in mine], s=size, marker=marker, color=colour, alpha=alpha, label=one
            )


def marker_size(shown: Sequence[TrialRecord]) -> tuple[float, float]:
    """Area and opacity of markers, for so many of them."""
    return (14.0, 0.5) if len(shown) > 300 else (24.0, 0.75) if len(shown) > 60 else (44.0, 0.95)


def frame(axes: Axes, x: str, y: str) -> None:
    """Label the axes, and draw a grid and the line at 0."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.grid(alpha=0.3)


def ring(axes: Axes, x: float, y: float, label: str, *, colour: str = BEST, size: float = 14) -> None:
    """Draw a ring around a point, to mark it."""
    style: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 1.6}
    axes.plot(x, y, linestyle="none", label=label, marker="o", markersize=size, zorder=5, **style)


def stretch(axes: Axes, which: Literal["x", "y"], interesting: Sequence[float]) -> None:
    """Make an axis logarithmic beyond the interesting values, if the others would squash them on a linear one."""
    threshold = linear(interesting, *getattr(axes, f"get_{which}lim")())
    if threshold is None:
        return
    getattr(axes, f"set_{which}scale")("symlog", linthresh=threshold, linscale=1.5)
    axis = getattr(axes, f"{which}axis")
    low, high = _limits(axis.get_transform(), getattr(axes.dataLim, f"interval{which}"))
    getattr(axes, f"set_{which}lim")(low, high)
    axis.set_major_locator(FixedLocator([tick for tick in ticks(threshold) if low <= tick <= high]))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(FixedLocator([]))


def linear(interesting: Sequence[float], low: float, high: float) -> float | None:
    """Up to where an axis from `low` to `high` is linear; `None` if all of it is."""
    reach = max((abs(value) for value in interesting if math.isfinite(value)), default=1.0)
    threshold = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100, math.inf) if step >= reach)
    return None if max(abs(low), abs(high)) <= 3 * threshold else threshold


def ticks(threshold: float) -> list[float]:
    """The ticks of an axis that is linear up to a threshold, and logarithmic beyond it."""
    steps = [sign * threshold * step for step in (0.5, 1, 3, 10, 30, 100, 300, 1000) for sign in (1, -1)]
    return sorted([0.0, *steps])


def _limits(transform: Any, interval: Sequence[float]) -> tuple[float, float]:
    """The limits of a transformed axis that leave a margin around the data."""
    ends = transform.transform(np.array(interval))
    margin = 0.04 * (ends[1] - ends[0])
    low, high = transform.inverted().transform(np.array([ends[0] - margin, ends[1] + margin]))
    return low, high


def short(value: object, width: int = 44) -> str:
    """A value as a name in a figure: never markup, and cut in the middle where it would run out of the picture."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return textwrap.shorten(text, width, placeholder="…") if " " in text and len(text) > width else _cut(text, width)


def _cut(text: str, width: int) -> str:
    text = text if len(text) <= width else f"{text[: width // 2]}…{text[-(width // 2 - 1) :]}"
    return text.replace("$", r"\$")
