"""Trials with made-up numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

from adiabatic_ray.trials.record import Evaluation, TrialRecord


def record(number: int, gain: float = 0.0, constraint: float = -0.5, **changes: Any) -> TrialRecord:
    """A complete trial with one evaluation point."""
    points = (Evaluation(4, 100.0, {"gain": gain, "constraint": constraint}),)
    made = TrialRecord(number, {"learning_rate": 1e-6 * number}, "complete", "", 1.0, 2.0, points, "neutral/de/en")
    return dataclasses.replace(made, **changes)
