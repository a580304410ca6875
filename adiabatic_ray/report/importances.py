"""How much each hyper-parameter matters, as bars."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from adiabatic_ray.report.figures import FEASIBLE

Importances = Mapping[str, Mapping[str, float]]  # shares of 1 by hyper-parameter, for each target


def bars(importances: Importances) -> Figure:
    """The share of each hyper-parameter in a high gain and in a low constraint, a panel for each target."""
    names = list(dict.fromkeys(name for shares in importances.values() for name in shares))
    names.sort(key=lambda name: sum(shares.get(name, 0.0) for shares in importances.values()))
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(importances), sharey=True, squeeze=False)[0]
    for axes, (target, shares) in zip(panels, importances.items(), strict=True):
        values = [shares.get(name, 0.0) for name in names]
        drawn = axes.barh(names, values, color=FEASIBLE, height=0.6)
        axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=9)
        axes.set_xlim(0, 1.15 * max(*values, 1e-9))
        axes.set_title(f"for the {target}", fontsize=10)
        axes.set_xlabel("importance (share of 1)")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
