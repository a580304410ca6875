"""Carries a trained displacement to its edge: the scale with the largest gain that still holds the constraint.

Between two encoders that were measured, the leads of triplets and the scores of passages are interpolated, which costs
no forward pass. This predicts the gain and the constraint at every scale, the *profile*. Exact measurements then close
in on the edge: each replaces an end of the interpolation, and what is handed over is only ever what was measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.trials.record import Candidate, ProfilePoint

# The scales of a profile, ascending: eight to each halving, so neighbours differ by 9%. Doubling the smallest one five
# times gives the whole displacement.
GRID = tuple(2.0 ** (k / 8) for k in range(-40, 1))

Measured = Mapping[float, Measurement]  # exact measurements by scale, with the untouched encoder at 0


def carry(
    benchmark: Benchmark, measure: Callable[[float], Measurement], whole: Measurement, limit: int
) -> dict[float, Measurement]:
    """Close in on the edge of a displacement with at most `limit` exact measurements, and return them by scale.

    `measure` measures the displacement times a scale, and `whole` is the measurement of the whole displacement. Each
    step measures the most promising scale: that with the largest predicted gain of those predicted to be feasible. It
    ends when the most promising scale was measured before. So the edge is known to the resolution of `GRID`.
    """
    exact = {0.0: benchmark.untouched(), 1.0: whole}
    for _ in range(limit):
        scale = _most_promising(profile(benchmark, exact), exact)
        if scale in exact:
            break
        exact[scale] = measure(scale)
    return {scale: one for scale, one in exact.items() if 0 < scale < 1}


def profile(benchmark: Benchmark, exact: Measured) -> list[ProfilePoint]:
    """The gain and the constraint at every scale of `GRID` and of `exact`, predicted where they were not measured."""
    points = []
    for below, above in itertools.pairwise(sorted(exact)):
        predict = benchmark.line(exact[below], exact[above])
        between = [scale for scale in GRID if below < scale < above]
        points += [_point(scale, predict((scale - below) / (above - below))) for scale in between]
        points.append(_point(above, exact[above]))
    return points


def predicted_edge(points: Sequence[ProfilePoint]) -> ProfilePoint | None:
    """The point with the largest gain of the feasible ones; of equal ones that with the smallest scale."""
    feasible = [point for point in points if point.constraint <= 0]
    return max(feasible, key=lambda point: (point.gain, -point.scale), default=None)


def candidate(scale: float, measured: Measurement, predicted: ProfilePoint | None = None) -> Candidate:
    """An exact measurement at a scale, with what was predicted of it where it was."""
    assert measured.violation is not None
    metrics = dict(measured.metrics)
    if predicted is not None:
        metrics |= {"predicted/gain": predicted.gain, "predicted/constraint": predicted.constraint}
    return Candidate(scale, metrics, measured.violation.worst)


def _point(scale: float, at: Measurement) -> ProfilePoint:
    return ProfilePoint(scale, at.metrics["gain"], at.metrics["constraint"], at.metrics["bound/evidence"])


def _most_promising(points: Sequence[ProfilePoint], exact: Measured) -> float:
    """The scale to measure next, or one that was measured: 0, the untouched encoder, where no gain is predicted.

    Prediction errs towards too little change, so nothing beyond a scale that was measured as infeasible is promising.
    """
    infeasible = min((scale for scale, one in exact.items() if one.metrics["constraint"] > 0), default=2.0)
    best = predicted_edge([point for point in points if point.scale < infeasible])
    return best.scale if best is not None and best.gain > 0 else 0.0
