"""The adiabatic regime of each freezing mask, with intervals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """Where something changes as the learning rate grows: between two neighbouring rates that were tried.

    `below` is the last rate before the change and `above` the first one after it; with 95% confidence the change lies
    between `low` and `high`. `None` stands for "beyond the rates that were tried".
    """

    below: float | None
    above: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Regime:
    """What one freezing mask allows: `rates` are those tried, ascending, `trials` how many stand behind it.

    `edge` is where trials stop being feasible, `onset` where the gain becomes significant. `verdict` says it in words.
    """

    mask: str
    rates: tuple[float, ...]
    trials: int
    edge: Change
    onset: Change
    verdict: str
