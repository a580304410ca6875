"""Figures of a sweep, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from adiabatic_ray.report.ledger import UNTOUCHED, Record

FEASIBLE, INFEASIBLE = "#0072B2", "#D55E00"  # Okabe and Ito 2008
MARKERS = "os^Dv<>PX*"
TICKS = (-1000, -300, -100, -30, -10, -5, 0, 5, 10, 30, 100, 300)
SIGNIFICANT = 0.05


def gain_and_worst_language(records: Sequence[Record], objective: str) -> Figure:
    """Gain and the worst language's improvement against the learning rate.

    The colour tells feasibility, the marker the freezing mask; markers are filled where the gain passes the two-tailed
    test, and open where it does not.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    shown = [r for r in records if r.number != UNTOUCHED and r.gain is not None and "learning_rate" in r.config]
    masks = list(dict.fromkeys(str(record.config.get("freeze", "")) for record in shown))
    for record in shown:
        colour = FEASIBLE if record.feasible else INFEASIBLE
        marker = MARKERS[masks.index(str(record.config.get("freeze", ""))) % len(MARKERS)]
        face = colour if record.metrics["p_value"] < SIGNIFICANT else "none"
        for axes, value in ((upper, record.gain), (lower, record.metrics["worst_language"])):
            rate = float(record.config["learning_rate"])
            axes.plot(rate, value, marker=marker, color=colour, markerfacecolor=face, linestyle="none")
    upper.set_ylabel(f"gain on {objective} (%)")
    lower.set_ylabel("improvement of the worst language (%)")
    lower.set_xlabel("learning rate")
    for axes in (upper, lower):
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_yscale("symlog", linthresh=10)  # hopeless trials would squeeze the interesting ones into a line
        axes.set_yticks([tick for tick in TICKS if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.margins(0.06)
    lower.set_xscale("log")
    legend = [
        Line2D([], [], color=FEASIBLE, marker="o", linestyle="none", label="feasible"),
        Line2D([], [], color=INFEASIBLE, marker="o", linestyle="none", label="infeasible"),
        Line2D([], [], color="0.3", marker="o", markerfacecolor="none", linestyle="none", label="gain not significant"),
    ]
    if len(masks) > 1:
        legend += [
            Line2D([], [], color="0.3", marker=MARKERS[i % len(MARKERS)], linestyle="none", label=f"frozen: {mask}")
            for i, mask in enumerate(masks)
        ]
    figure.legend(handles=legend, loc="outside upper center", ncols=3)
    return figure


def improvement_heat_maps(discordance: Path, dataset: str, title: str) -> Figure | None:
    """Improvement for each pair of languages and both XNLI comparisons, from a trial's `discordance.csv`.

    A dot marks cells whose change passes the two-tailed test. `None` where the set has no language pairs.
    """
    with discordance.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == dataset and row["query_language"]]
    if not rows:
        return None
    languages = list(dict.fromkeys(row["query_language"] for row in rows))
    comparisons = list(dict.fromkeys(row["comparison"] for row in rows))
    figure = Figure(figsize=(6 * len(comparisons), 5.5), layout="constrained")
    changes = [abs(float(row["improvement"])) for row in rows]  # infinite where the untouched encoder erred nowhere
    largest = max(1.0, *(change for change in changes if np.isfinite(change)))
    for axes, comparison in zip(np.atleast_1d(figure.subplots(1, len(comparisons))), comparisons, strict=True):
        values = np.zeros((len(languages), len(languages)))
        for row in rows:
            if row["comparison"] == comparison:
                x, y = languages.index(row["query_language"]), languages.index(row["text_language"])
                values[x, y] = float(row["improvement"])
                if float(row["p_value"]) < SIGNIFICANT:
                    axes.plot(y, x, marker=".", color="black", markersize=4)
        image = axes.imshow(values, cmap="PuOr", vmin=-largest, vmax=largest)
        axes.set_xticks(range(len(languages)), languages, rotation=90)
        axes.set_yticks(range(len(languages)), languages)
        axes.set_xlabel("language of the hypotheses")
        axes.set_ylabel("language of the premise (query)")
        axes.set_title(f"entailment against {comparison}")
    figure.colorbar(image, ax=figure.axes, label="improvement (%)", shrink=0.8)
    figure.suptitle(f"{title}\ndots: significant at {SIGNIFICANT}")
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    with mpl.rc_context({"font.size": 10}):
        figure.savefig(path, dpi=140)
    return path
