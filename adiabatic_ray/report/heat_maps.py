"""Heat maps over pairs of languages: the language of the query against the language of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from adiabatic_ray.evaluate import discordance, significance
from adiabatic_ray.evaluate.significance import SIGNIFICANT

CROSS = "0.25"

Cells = np.ndarray[Any, np.dtype[np.float64]]


def improvement(base: Tensor, tuned: Tensor, languages: Sequence[str], title: str) -> Figure:
    """Improvement of each pair of languages in both XNLI comparisons, from outcomes `[n, 2, L, L]` (bool).

    Crosses mark cells whose change fails the two-tailed test. A cell where the untouched encoder erred nowhere and the
    tuned one does has no finite improvement; it is drawn in the colour of the largest degradation.
    """
    before, after = base.sum(0).tolist(), tuned.sum(0).tolist()
    broken, fixed = (tuned & ~base).sum(0).tolist(), (base & ~tuned).sum(0).tolist()
    size = range(len(languages))
    values = [
        np.array([[discordance.improvement(before[c][x][y], after[c][x][y]) for y in size] for x in size])
        for c in range(len(discordance.COMPARISONS))
    ]
    largest = max(1.0, max(float(np.abs(cells[np.isfinite(cells)]).max(initial=0.0)) for cells in values))
    values = [np.clip(cells, -largest, largest) for cells in values]
    figure = _maps(values, languages, title, {"cmap": "PuOr", "vmin": -largest, "vmax": largest}, "improvement (%)")
    for c, axes in enumerate(figure.axes[: len(values)]):
        failing = [
            (y, x) for x in size for y in size
            if significance.mcnemar(broken[c][x][y], fixed[c][x][y]) >= SIGNIFICANT
        ]  # fmt: skip
        if failing:
            across, down = zip(*failing, strict=True)
            axes.scatter(across, down, marker="x", s=16, color=CROSS, linewidths=0.8)
    mark = Line2D([], [], linestyle="none", marker="x", markersize=5, color=CROSS)
    text = f"change is not significant (two-tailed, exact McNemar test at {SIGNIFICANT}, each pair on its own)"
    figure.legend([mark], [text], loc="outside lower center", frameon=False)
    return figure


def pnd(outcomes: Tensor, languages: Sequence[str], title: str, largest: float) -> Figure:
    """PND of an encoder for each pair of languages in both XNLI comparisons, from outcomes `[n, 2, L, L]` (bool).

    `largest` is the end of the colour scale in percent, so that several encoders can share one.
    """
    values = list(100 * outcomes.double().mean(0).numpy())
    scale = {"cmap": "cividis_r", "vmin": 0, "vmax": largest}
    return _maps(values, languages, title, scale, "PND (%), lower is better")


def _maps(values: Sequence[Cells], languages: Sequence[str], title: str, scale: dict[str, Any], label: str) -> Figure:
    figure = Figure(figsize=(11.5, 6), layout="constrained")
    panels = figure.subplots(1, len(values), sharey=True)
    for axes, cells, comparison in zip(panels, values, discordance.COMPARISONS, strict=True):
        image = axes.imshow(cells, **scale)
        axes.set_xticks(range(len(languages)), languages, rotation=90 if len(languages) > 8 else 0)
        axes.set_yticks(range(len(languages)), languages)
        axes.set_xlabel("language of the texts (hypotheses)")
        axes.set_title(f"entailment against {comparison}", fontsize=11)
    panels[0].set_ylabel("language of the query (premise)")
    figure.colorbar(image, ax=figure.axes, label=label, shrink=0.75)
    figure.suptitle(title.replace("$", r"\$"))
    return figure
