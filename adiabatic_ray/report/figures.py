"""Figures of a sweep, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from adiabatic_ray.report.ledger import UNTOUCHED, Record

FEASIBLE, INFEASIBLE = "#0072B2", "#D55E00"  # Okabe and Ito 2008
SIGNIFICANT = 0.05


def gain_and_worst_language(records: Sequence[Record], objective: str) -> Figure:
    """Gain and the worst language's improvement against the learning rate, coloured by feasibility.

    Markers are filled where the gain passes the two-tailed test, and open where it does not.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    shown = [r for r in records if r.number != UNTOUCHED and r.gain is not None and "learning_rate" in r.config]
    for feasible, colour, marker in ((True, FEASIBLE, "o"), (False, INFEASIBLE, "s")):
        chosen = [record for record in shown if record.feasible == feasible]
        rates = [float(record.config["learning_rate"]) for record in chosen]
        filled = [colour if record.metrics["p_value"] < SIGNIFICANT else "none" for record in chosen]
        label = "feasible" if feasible else "infeasible"
        for axes, values in (
            (upper, [record.gain for record in chosen]),
            (lower, [record.metrics["worst_language"] for record in chosen]),
        ):
            axes.scatter(rates, values, c=filled, edgecolors=colour, marker=marker, label=label)
    upper.set_ylabel(f"gain on {objective} (%)")
    lower.set_ylabel("improvement of the worst language (%)")
    lower.set_xlabel("learning rate")
    for axes in (upper, lower):
        axes.axhline(0, color="0.6", linewidth=0.8)
        # Hopeless trials would squeeze the interesting ones into a line.
        axes.set_yscale("symlog", linthresh=10)
        axes.grid(alpha=0.3)
    lower.set_xscale("log")
    upper.legend()
    upper.set_title("open markers: gain not significant")
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
    largest = max(1.0, *(abs(float(row["improvement"])) for row in rows))
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
