"""What the page says of a single trial, when its row is opened: its course, its languages, and how to export it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from adiabatic_ray import config
from adiabatic_ray.report import charts
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord
from adiabatic_ray.trials.store import TrialStore

METRICS = {"gain": "gain (%)", "worst_language": "worst language (%)", "constraint": "constraint"}
COURSE = charts.chart(  # of the data `course`: the metrics of a whole displacement over the steps
    charts.zero(),
    {
        "data": {"name": "course"},
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": charts.number("step", "step"),
            "y": charts.number("value", "whole displacement"),
            "color": {"field": "metric", "type": "nominal", "legend": {"title": None, "orient": "right"}},
            "tooltip": [{"field": "step"}, {"field": "metric"}, {"field": "value", "format": "+.2f"}],
        },
    },
    height=180,
)


def of(store: TrialStore, records: Sequence[TrialRecord]) -> dict[int, dict[str, Any]]:
    """The details of each trial, by its number.

    `config` has its hyper-parameters in full. `course` are its evaluations, where it has several. `languages` has the
    improvement in each language of each guard, in percent, at the scale of its candidate. `command` exports it.
    """
    return {record.number: _of(store, record) for record in records}


def _of(store: TrialStore, record: TrialRecord) -> dict[str, Any]:
    part = record.candidate or record.whole
    return {
        "config": {name: str(value) for name, value in record.config.items()},
        "course": _course(record) if len(record.points) > 1 else None,
        "scale": part.scale,
        "languages": {guard.key: _languages(guard, part.metrics) for guard in store.sweep.constraint.guarded},
        "command": _command(store, record),
    }


def _languages(guard: config.Guard, metrics: Any) -> dict[str, str]:
    prefix = f"improvement/{guard.key}/"
    return {key.removeprefix(prefix): f"{value:+.2f}%" for key, value in metrics.items() if key.startswith(prefix)}


def _command(store: TrialStore, record: TrialRecord) -> str:
    if record.number == UNTOUCHED or record.state != "complete":
        return ""
    force = "" if record.candidate else " --force"
    return f"adiabatic-ray export {shlex.quote(store.folder.path.name)} encoder --trial {record.number}{force}"


def _course(record: TrialRecord) -> charts.Rows:
    """The metrics of the whole displacement over the steps."""
    return [
        {"step": point.step, "metric": label, "value": point.metrics[key]}
        for point in record.points
        for key, label in METRICS.items()
        if key in point.metrics
    ]
