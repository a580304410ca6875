"""Bootstrap intervals over what was sampled: queries, and premises with all their language pairs together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% percentile interval."""

    value: float
    low: float
    high: float
