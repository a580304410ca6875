"""Charts that answer the pointer: figures of the page once more, as Vega-Lite specifications, by the figures' names.

The page shows them in the figures' places where it may run scripts; on paper and without scripts the figures stay. A
mark that stands for a trial has its number in `trial`, so that charts can point to the same trial together and say the
same of it (`tips`, which the page has once); what only this mark says is in its `tip`. Marks of the same trial that
stand for different things differ in what they say as `here`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import vl_convert

from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.report import figures, tables
from adiabatic_ray.trials import naming
from adiabatic_ray.trials.record import TrialRecord

Spec: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[dict[str, Any]]
Tips: TypeAlias = Mapping[int, Mapping[str, str]]  # what is said of each trial, by its number

SHAPES = {
    "infeasible": "cross",
    "stopped early": "triangle-down",
    "feasible part of the displacement": "triangle-up",
    "feasible": "circle",
}
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # names the language; nothing is fetched
WHOLE = ("number", "step")  # fields that have no fractions
HEIGHT = 260  # pixels; the width is the page's
LEGEND = {"orient": "top", "columns": 2, "labelLimit": 320, "symbolOpacity": 1}
FOCUS = {"test": "isValid(datum.trial) && datum.trial === focus"}
TIP = {"expr": "isValid(datum.trial) ? merge(datum.tip || {}, tips[datum.trial]) : datum.tip"}
INK = {"expr": "ink"}  # black, or white on a dark page


@functools.cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed, as one script."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", r"<\/script")


def embedded(value: object) -> str:
    """A value as JSON that can stand in a `script` element."""
    return json.dumps(_rounded(value), allow_nan=False, ensure_ascii=False).replace("<", r"\u003c")


def _rounded(value: Any) -> Any:
    """A value with its numbers to six digits, more than a chart can show; none where they are infinite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def tips(records: Iterable[TrialRecord], winner: TrialRecord | None, intervals: Mapping[int, Interval]) -> Tips:
    """What is said of each trial where the pointer is, by its number; `intervals` are those of the gains."""
    return {record.number: _tip(record, winner, intervals.get(record.number)) for record in records}


def _tip(record: TrialRecord, winner: TrialRecord | None, interval: Interval | None) -> dict[str, str]:
    part, metrics = record.candidate, record.metrics
    scaled = {f"at scale {naming.show(part.scale)}": estimate(part.gain)} if part and part.scale < 1 else {}
    said = {
        "trial": f"{record.number}: {tables.verdict(record, winner)}",
        "gain": estimate(metrics["gain"], interval) if "gain" in metrics else "",
        "worst language": estimate(metrics["worst_language"]) if "worst_language" in metrics else "",
        "constraint": f"{metrics['constraint']:+.2f}" if "constraint" in metrics else "",
        **scaled,
        "confirmed gain": estimate(record.confirmation["gain"]) if "gain" in record.confirmation else "",
        **{name: naming.show(value) for name, value in record.config.items()},
    }
    return {name: text for name, text in said.items() if text}


def estimate(percent: float, interval: Interval | None = None) -> str:
    """An estimate in words, with its interval where there is one."""
    return f"{percent:+.2f}%" + (f" [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else "")


def chart(*layers: Spec, height: int = HEIGHT, **more: Any) -> Spec:
    """A chart of these layers, from below to above, without those that have nothing to show."""
    spec = {"$schema": SCHEMA, "height": height, "autosize": {"type": "fit-x", "contains": "padding"}}
    shown = [layer for layer in layers if layer.get("data", {}).get("values", True)]
    return {**spec, "layer": shown, **more}


def trials(rows: Rows, x: Spec, y: Spec) -> Spec:
    """Trials as points at `x` and `y`, each kind in its own colour and shape; the legend chooses kinds."""
    kinds = [one for one in figures.KINDS if any(row["kind"] == one for row in rows)]
    colours = {"domain": kinds, "range": [figures.KINDS[one][1] for one in kinds]}
    shapes = {"domain": kinds, "range": [SHAPES[one] for one in kinds]}
    legend = {**LEGEND, "title": None}
    size = 40 if len(rows) > 60 else 90
    return {
        "data": {"values": rows},
        "params": [*zoom(), chosen("kind")],
        "mark": {"type": "point", "filled": True, "tooltip": TIP, "stroke": INK},
        "encoding": {
            "x": x,
            "y": y,
            "color": {"field": "kind", "type": "nominal", "scale": colours, "legend": legend},
            "shape": {"field": "kind", "type": "nominal", "scale": shapes, "legend": legend},
            "size": {"condition": {**FOCUS, "value": 4 * size}, "value": size},
            "strokeWidth": {"condition": [{**FOCUS, "value": 2}, {"test": "datum.best", "value": 2}], "value": 0},
            "opacity": {"condition": {"param": "kind", "value": 0.85}, "value": 0.06},
        },
    }


def chosen(field: str) -> Spec:
    """A choice of values in the legend."""
    return {"name": field, "select": {"type": "point", "fields": [field]}, "bind": "legend"}


def zoom() -> list[Spec]:
    """Zoom with Shift and the wheel, which alone scrolls the page; drag to move, and double-click to start over."""
    return [{"name": "zoom", "select": {"type": "interval", "zoom": "wheel![event.shiftKey]"}, "bind": "scales"}]


def line(values: Rows, x: Spec, y: Spec, colour: Any, **mark: Any) -> Spec:
    """A line through values, in their order."""
    encoding = {"x": x, "y": y, "order": {"field": "order"}}
    ordered = [{**one, "order": place} for place, one in enumerate(values)]
    return {"data": {"values": ordered}, "mark": {"type": "line", "color": colour, **mark}, "encoding": encoding}


def zero(axis: str = "y") -> Spec:
    """The line at 0."""
    return rule(axis, 0, color="#888")


def rule(axis: str, value: float, **mark: Any) -> Spec:
    """A line at a value."""
    return {"data": {"values": [{}]}, "mark": {"type": "rule", **mark}, "encoding": {axis: {"datum": value}}}


def number(field: str, title: str, scale: Spec | None = None) -> Spec:
    """A field of numbers on an axis."""
    axis: Spec = {"format": ".3~f", "labelOverlap": True, "tickCount": 10}
    if field in WHOLE:
        axis["tickMinStep"] = 1
    if scale and scale["type"] == "symlog":
        axis["values"] = figures.ticks(scale["constant"])
    return {"field": field, "type": "quantitative", "title": title, "scale": scale or {"zero": False}, "axis": axis}


def rate(field: str = "rate") -> Spec:
    """The learning rate on a logarithmic axis."""
    scale = {"type": "log", "nice": False, "padding": 12}
    return {**number(field, "learning rate", scale), "axis": {"format": "~e", "labelOverlap": True}}


def stretched(values: Sequence[float], interesting: Sequence[float]) -> Spec:
    """The scale of an axis that is logarithmic beyond the interesting values, as `figures.stretch` makes it."""
    linear = figures.linear(interesting, min(values, default=0.0), max(values, default=0.0))
    if linear is None:
        return {"type": "linear", "zero": False}
    return {"type": "symlog", "constant": linear, "nice": False, "padding": 12}
