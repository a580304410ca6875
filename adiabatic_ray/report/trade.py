"""The trade between the gain and the worst language: what is feasible of all trials, and its Pareto fronts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adiabatic_ray.report import charts, figures
from adiabatic_ray.trials.record import TrialRecord

Point = tuple[float, float]  # improvement of the worst language, and gain


@dataclass(frozen=True)
class Trade:
    """What is feasible of a sweep's trials, and what measuring parts of displacements adds to it.

    `wholes` are the feasible whole displacements, and `parts` the feasible parts of displacements. `rescued` counts the
    trials of which only parts are feasible. `scaled` says that parts were measured at all.
    """

    wholes: list[Point]
    parts: list[Point]
    rescued: int
    scaled: bool

    @classmethod
    def of(cls, records: Sequence[TrialRecord]) -> Trade:
        """The trade between the gain and the worst language that the measured trials offer."""
        shown = figures.measured(records)
        scaled = [part.metrics for r in shown if r.state == "complete" for part in r.scaled]
        return cls(
            wholes=[(r.metrics["worst_language"], r.metrics["gain"]) for r in shown if r.feasible],
            parts=[(part["worst_language"], part["gain"]) for part in scaled if part["constraint"] <= 0],
            rescued=sum(bool(r.candidate) and not r.feasible for r in shown),
            scaled=any(r.scaled for r in shown),
        )

    @property
    def everything(self) -> list[Point]:
        return [*self.wholes, *self.parts]

    @property
    def largest_whole_gain(self) -> float | None:
        return max((gain for _, gain in self.wholes), default=None)

    @property
    def largest_gain(self) -> float | None:
        return max((gain for _, gain in self.everything), default=None)

    @property
    def front_of_wholes(self) -> list[Point]:
        return front(self.wholes)

    @property
    def front_of_everything(self) -> list[Point]:
        return front(self.everything)


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats in both coordinates, by ascending first coordinate."""
    kept: list[Point] = []
    for point in sorted(set(points), reverse=True):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept[::-1]


def gain_against_worst_language(records: Sequence[TrialRecord], objective: str, winner: TrialRecord | None) -> Figure:
    """Gain against the worst language: every measured trial, its feasible parts, and the fronts of what is feasible."""
    shown, trade = figures.measured(records), Trade.of(records)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots()
    _points(axes, shown, trade)
    _front(axes, trade.front_of_everything, figures.SCALED, (0, (5, 2)), "front with parts")
    _front(axes, trade.front_of_wholes, figures.FEASIBLE, "solid", "front of whole displacements")
    axes.plot(0, 0, marker="P", color="0.25", markersize=9, linestyle="none", label="untouched encoder", zorder=4)
    if winner is not None and winner.candidate is not None and "worst_language" in winner.candidate.metrics:
        part = winner.candidate.metrics
        figures.ring(axes, part["worst_language"], part["gain"], f"best: trial {winner.number}")
    figures.frame(axes, "improvement of the worst language (%)", f"gain on {objective} (%)")
    figures.stretch(axes, "x", [worst for worst, _ in trade.everything])
    figures.stretch(axes, "y", [gain for _, gain in trade.everything])
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


def chart(records: Sequence[TrialRecord], objective: str, winner: TrialRecord | None) -> charts.Spec:
    """The same for the pointer."""
    shown, trade = figures.measured(records), Trade.of(records)
    rows = [_row(r, r.metrics, figures.kind(r), best=r is winner and winner.candidate == r.whole) for r in shown]
    rows += [
        _row(r, part.metrics, "feasible part of the displacement", best=r is winner and part == winner.candidate)
        | {"tip": {"here": f"scale {part.scale:.3g}, gain {part.gain:+.2f}%"}}
        for r in shown
        for part in r.scaled
        if r.state == "complete" and part.metrics["constraint"] <= 0
    ]
    worst = charts.stretched([row["worst"] for row in rows], [x for x, _ in trade.everything])
    gain = charts.stretched([row["gain"] for row in rows], [y for _, y in trade.everything])
    x = charts.number("worst", "improvement of the worst language (%)", worst)
    y = charts.number("gain", f"gain on {objective} (%)", gain)
    fronts = [
        charts.line([{"worst": x, "gain": y} for x, y in points], x, y, colour, interpolate="step-before", **dash)
        for points, colour, dash in (
            (trade.front_of_everything, figures.SCALED, {"strokeDash": [5, 3]}),
            (trade.front_of_wholes, figures.FEASIBLE, {}),
        )
    ]
    return charts.chart(charts.zero(), charts.zero("x"), *fronts, charts.trials(rows, x, y), height=340)


def _row(record: TrialRecord, metrics: Mapping[str, float], kind: figures.Kind, *, best: bool) -> dict[str, Any]:
    place = {"worst": metrics["worst_language"], "gain": metrics["gain"]}
    return {"trial": record.number, **place, "kind": kind, "best": best}


def _points(axes: Axes, shown: Sequence[TrialRecord], trade: Trade) -> None:
    size, alpha = figures.marker_size(shown)
    others = [(r.metrics["worst_language"], r.metrics["gain"]) for r in shown if not r.feasible]
    wholes = set(trade.wholes)
    parts = [point for point in trade.parts if point not in wholes]
    for points, marker, colour, label in (
        (others, "x", figures.INFEASIBLE, "infeasible or stopped"),
        (parts, "^", figures.SCALED, "feasible part of a displacement"),
        (trade.wholes, "o", figures.FEASIBLE, "feasible"),
    ):
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=size, marker=marker, color=colour, alpha=alpha, label=label)


def _front(axes: Axes, points: Sequence[Point], colour: str, style: Any, label: str) -> None:
    if points:
        x, y = zip(*points, strict=True)
        axes.step(x, y, where="pre", color=colour, linewidth=1.6, linestyle=style, label=label, zorder=3)
