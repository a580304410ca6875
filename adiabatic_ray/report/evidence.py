"""What the outcomes of a sweep's trials say, with intervals: the numbers of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.report.ledger import Ledger
from adiabatic_ray.report.regime import Regime


@dataclass(frozen=True)
class Evidence:
    """Intervals and regimes of a sweep.

    `improvements[number][name]` is the improvement in percent of a trial's whole displacement on a selection set
    (triplets or XNLI). `selection` and `confirmation` are the same of the winner's candidate, and empty without one or
    where it was not confirmed. `damaged` are trials whose outcomes cannot be read; they are left out.
    """

    improvements: Mapping[int, Mapping[str, Interval]]
    selection: Mapping[str, Interval]
    confirmation: Mapping[str, Interval]
    regimes: list[Regime]
    damaged: list[int]


def gather(ledger: Ledger) -> Evidence:
    """Read all outcomes of a sweep and compute intervals and regimes."""
    raise NotImplementedError
