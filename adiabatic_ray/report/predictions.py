"""What was predicted of scaled displacements from the whole ones, beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from adiabatic_ray.trials.record import Candidate, TrialRecord


@dataclass(frozen=True)
class Predictions:
    """The measured candidates that were predicted before, each with its trial's number, by trial and scale.

    `measurements` is the mean number of exact measurements with which a trial closed in on its edge. The seconds are
    medians over trials: of a profile, which predicts all scales, and of a measurement, which embeds all queries.
    """

    rows: list[tuple[int, Candidate]]
    measurements: float
    profile_seconds: float
    measurement_seconds: float

    @classmethod
    def of(cls, records: Sequence[TrialRecord]) -> Predictions | None:
        """`None` where nothing was predicted: trials are judged by their whole displacements, or none is complete."""
        profiled = [record for record in records if record.profile]
        rows = [(record.number, one) for record in profiled for one in record.scaled if "predicted/gain" in one.metrics]
        if not rows:
            return None
        profile, measurement = (
            statistics.median(record.metrics.get(f"time/{key}_seconds", 0.0) for record in profiled)
            for key in ("profile", "evaluation")
        )
        return cls(rows, len(rows) / len(profiled), profile, measurement)
