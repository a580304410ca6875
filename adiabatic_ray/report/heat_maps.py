"""Heat maps over pairs of languages: the language of the query against the language of the texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from adiabatic_ray.evaluate import discordance, significance
from adiabatic_ray.evaluate.evidence import COMPARISONS

CROSS = "0.25"

Cells: TypeAlias = npt.NDArray[np.float64]  # [comparison, query language, text language]


def improvement(base: Tensor, tuned: Tensor, languages: Sequence[str], title: str) -> Figure:
    """Improvement of each pair of languages in both XNLI comparisons, from outcomes `[n, 2, L, L]` (bool).

    A cross marks a cell whose change is not significant. Where only the tuned encoder has discordant triplets, the
    improvement is minus infinity, and the cell has the colour at the lower end of the scale.
    """
    relative = np.vectorize(discordance.improvement, otypes=[float])
    values: Cells = relative(base.sum(0).numpy(), tuned.sum(0).numpy())
    largest = max(1.0, float(np.abs(values[np.isfinite(values)]).max(initial=0.0)))
    scale = {"cmap": "PuOr", "vmin": -largest, "vmax": largest}
    figure = _maps(np.clip(values, -largest, largest), languages, title, scale, "improvement (%)")
    p_values = significance.mcnemar((tuned & ~base).sum(0).numpy(), (base & ~tuned).sum(0).numpy())
    _cross_out(figure, p_values >= significance.SIGNIFICANT)
    return figure


def pnd(outcomes: Tensor, languages: Sequence[str], title: str, largest: float) -> Figure:
    """PND of an encoder for each pair of languages in both XNLI comparisons, from outcomes `[n, 2, L, L]` (bool).

    The colour scale ends at `largest` percent, so that several encoders can share it.
    """
    values = 100 * outcomes.double().mean(0).numpy()
    scale = {"cmap": "cividis_r", "vmin": 0, "vmax": largest}
    return _maps(values, languages, title, scale, "PND (%), lower is better")


def _cross_out(figure: Figure, cells: npt.NDArray[np.bool_]) -> None:
    """Mark these cells `[comparison, query language, text language]`, and say in the legend what the mark means."""
    for axes, failing in zip(figure.axes, cells, strict=False):  # the colour bar has axes, too
        down, across = failing.nonzero()
        axes.scatter(across, down, marker="x", s=16, color=CROSS, linewidths=0.8)
    mark = Line2D([], [], linestyle="none", marker="x", markersize=5, color=CROSS)
    test = f"two-tailed, exact McNemar test at {significance.SIGNIFICANT}, each pair on its own"
    figure.legend([mark], [f"change is not significant ({test})"], loc="outside lower center", frameon=False)


def _maps(values: Cells, languages: Sequence[str], title: str, scale: dict[str, Any], label: str) -> Figure:
    figure = Figure(figsize=(11.5, 6), layout="constrained")
    panels = figure.subplots(1, len(values), sharey=True)
    for axes, cells, comparison in zip(panels, values, COMPARISONS, strict=True):
        image = axes.imshow(cells, **scale)
        axes.set_xticks(range(len(languages)), languages, rotation=90 if len(languages) > 8 else 0)
        axes.set_yticks(range(len(languages)), languages)
        axes.set_xlabel("language of the texts (hypotheses)")
        axes.set_title(f"entailment against {comparison}", fontsize=11)
    panels[0].set_ylabel("language of the query (premise)")
    figure.colorbar(image, ax=figure.axes, label=label, shrink=0.75)
    figure.suptitle(title.replace("$", r"\$"))
    return figure
