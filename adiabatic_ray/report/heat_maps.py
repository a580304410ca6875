"""Heat maps over pairs of languages: the language of the query against the language of the texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from torch import Tensor

from adiabatic_ray.evaluate import significance
from adiabatic_ray.evaluate.evidence import COMPARISONS, PAIR, Evidence
from adiabatic_ray.report import charts

CROSS, ABSENT, GAIN = "0.25", "0.88", "improvement (%)"
OF_XNLI = {one: f"entailment against {one}" for one in COMPARISONS}

Cells: TypeAlias = npt.NDArray[np.float64]  # [query language, text language], NaN where there is no such pair


def improvement(guards: Mapping[str, Evidence], title: str) -> Figure:
    """Improvement of each pair of languages of each guard, of XNLI in both comparisons.

    A cross marks a cell whose change is not significant. Where only the tuned encoder has discordant triplets, the
    improvement is minus infinity, and the cell has the colour at the lower end of the scale.
    """
    figure = Figure(figsize=(11.5, 6 * len(guards)), layout="constrained")
    parts = figure.subfigures(len(guards), 1, squeeze=False)[:, 0]
    for part, (guard, one) in zip(parts, guards.items(), strict=True):
        _improvement(part, one, guard)
    figure.suptitle(title.replace("$", r"\$"))
    return figure


def _improvement(figure: SubFigure, evidence: Evidence, guard: str) -> None:
    by_panel = _pairs(evidence)
    queries, texts = (one.names if one else evidence.languages for one in (evidence.language, evidence.text_language))
    gains, p_values = (
        np.array([[[of(pairs.get((x, y))) for y in texts] for x in queries] for pairs in by_panel.values()])
        for of in (_gain, _p_value)
    )
    largest = max(1.0, float(np.abs(gains[np.isfinite(gains)]).max(initial=0.0)))
    scale = {"cmap": "PuOr", "vmin": -largest, "vmax": largest}
    titles = [f"{guard}: {name}" if name else guard for name in by_panel]
    _maps(figure, dict(zip(titles, np.clip(gains, -largest, largest), strict=True)), queries, texts, scale, GAIN)
    _cross_out(figure, p_values, evidence)


def improvement_charts(guards: Mapping[str, Evidence]) -> list[charts.Spec]:
    """`improvement` for the pointer, a chart for each panel."""
    return [
        _chart(f"{guard}: {name}" if name else guard, pairs)
        for guard, one in guards.items()
        for name, pairs in _pairs(one).items()
    ]


def _chart(title: str, pairs: Mapping[tuple[str, str], Evidence]) -> charts.Spec:
    rows: charts.Rows = []
    for (query, text), one in pairs.items():
        value, p_value = one.improvement, significance.p_value(one)
        said = {"query": query, "texts": text, "improvement": charts.estimate(value), "p": f"{p_value:.2g}"}
        cross = "" if p_value < significance.SIGNIFICANT else "×"
        rows.append({"query": query, "text": text, "value": _finite(value), "cross": cross, "tip": said})
    largest = max(1.0, *(abs(row["value"]) for row in rows))
    x = {
        "field": "text",
        "type": "nominal",
        "sort": None,
        "title": "language of the texts",
        "axis": {"orient": "bottom"},
    }
    y = {"field": "query", "type": "nominal", "sort": None, "title": "language of the query"}
    scale = {"scheme": "purpleorange", "reverse": True, "domain": [-largest, largest]}
    colour = {"field": "value", "type": "quantitative", "title": GAIN, "scale": scale}
    data, tooltip = {"values": rows}, charts.TIP
    return charts.chart(
        {"data": data, "mark": {"type": "rect", "tooltip": tooltip}, "encoding": {"x": x, "y": y, "color": colour}},
        {
            "data": data,
            "mark": {"type": "text", "color": "#444", "tooltip": tooltip},
            "encoding": {"x": x, "y": y, "text": {"field": "cross"}},
        },
        height=max(120, 22 * len({row["query"] for row in rows})),
        title=title,
    )


def pnd(outcomes: Tensor, languages: Sequence[str], title: str, largest: float) -> Figure:
    """PND of an encoder for each pair of languages in both XNLI comparisons, from outcomes `[n, 2, L, L]` (bool).

    The colour scale ends at `largest` percent, so that several encoders can share it.
    """
    values = dict(zip(OF_XNLI.values(), 100 * outcomes.double().mean(0).numpy(), strict=True))
    figure = Figure(figsize=(11.5, 6), layout="constrained")
    scale = {"cmap": "cividis_r", "vmin": 0, "vmax": largest}
    _maps(figure, values, languages, languages, scale, "PND (%), lower is better")
    figure.suptitle(title.replace("$", r"\$"))
    return figure


def _pairs(evidence: Evidence) -> dict[str, dict[tuple[str, str], Evidence]]:
    """What each pair of query and text language says, by the title of its panel."""
    base, tuned, spoken = evidence.base, evidence.tuned, list(enumerate(evidence.languages))
    if base.dim() > 2:
        return {
            title: {(x, y): Evidence(base[:, c, i, j], tuned[:, c, i, j]) for i, x in spoken for j, y in spoken}
            for c, title in enumerate(OF_XNLI.values())
        }
    pairs = {}
    for groups in evidence.by_pair():
        query, _, text = groups.names[0].partition(PAIR)
        pairs[query, text] = Evidence(base[groups.rows], tuned[groups.rows])
    return {"": pairs}


def _finite(value: float) -> float:
    """A number that can be drawn: an infinite degradation as one of everything."""
    return min(100.0, max(-100.0, value)) if not np.isfinite(value) else value


def _gain(pair: Evidence | None) -> float:
    return pair.improvement if pair else np.nan


def _p_value(pair: Evidence | None) -> float:
    return significance.p_value(pair) if pair else np.nan


def _cross_out(figure: SubFigure, p_values: Iterable[Cells], evidence: Evidence) -> None:
    """Mark the cells whose change is not significant, and say in the legend what the mark means."""
    for axes, cells in zip(figure.axes, p_values, strict=False):  # the colour bar has axes, too
        down, across = (cells >= significance.SIGNIFICANT).nonzero()
        axes.scatter(across, down, marker="x", s=16, color=CROSS, linewidths=0.8)
    mark = Line2D([], [], linestyle="none", marker="x", markersize=5, color=CROSS)
    name = "exact McNemar test" if evidence.base.dtype == torch.bool else "paired randomization test"
    test = f"two-tailed {name} at {significance.SIGNIFICANT}, each pair on its own"
    figure.legend([mark], [f"change is not significant ({test})"], loc="outside lower center", frameon=False)


def _maps(
    figure: Figure | SubFigure,
    panels: Mapping[str, Cells],
    queries: Sequence[str],
    texts: Sequence[str],
    scale: dict[str, Any],
    label: str,
) -> None:
    """A panel for each table, by its title, with one colour scale."""
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, cells) in zip(drawn, panels.items(), strict=True):
        image = axes.imshow(cells, **scale)
        axes.set_facecolor(ABSENT)
        axes.set_xticks(range(len(texts)), texts, rotation=90 if len(texts) > 8 else 0)
        axes.set_yticks(range(len(queries)), queries)
        axes.set_xlabel("language of the texts")
        axes.set_title(title.replace("$", r"\$"), fontsize=11)
    drawn[0].set_ylabel("language of the query")
    figure.colorbar(image, ax=figure.axes, label=label, shrink=0.75)
