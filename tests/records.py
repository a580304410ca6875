"""Trials with made-up numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adiabatic_ray.trials.record import Confirmation, Evaluation, TrialRecord


def record(number: int, gain: float = 0.0, constraint: float = -0.5, **changes: Any) -> TrialRecord:
    """A complete trial with one evaluation point."""
    points = (Evaluation(4, 100.0, {"gain": gain, "constraint": constraint}),)
    made = TrialRecord(number, {"learning_rate": 1e-6 * number}, "complete", "", 1.0, 2.0, points, "neutral/de/en")
    return dataclasses.replace(made, **changes)


def checked(metrics: Mapping[str, float], scale: float = 1.0, gain: float = 1.0) -> tuple[Confirmation, ...]:
    """The test of a candidate on the confirmation sets, which fails where these metrics are infeasible."""
    failure = f"its constraint there is {metrics['constraint']:+.2f} (feasible at 0 or below)"
    return (Confirmation(scale, gain, metrics, failure if metrics["constraint"] > 0 else ""),)
