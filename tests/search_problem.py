"""A search problem in the shape of a real sweep, whose constrained optimum is known."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from adiabatic_ray import config
from adiabatic_ray.trials.record import Candidate, Evaluation, TrialRecord

SPACE: dict[str, Any] = {
    "learning_rate": config.Range(low=1e-8, high=1e-4, log=True),
    "batch_size": [8, 14, 32],
    "margin": config.Range(low=0.02, high=0.3),
    "freeze": ["embeddings", "embeddings+output.dense.weight", "none"],
}
# The learning rate at which each mask starts to harm, as the power of ten.
EDGES = {"none": -7.0, "embeddings": -6.5, "embeddings+output.dense.weight": -6.0}
SCALES = [10.0 ** (k / 20) for k in range(-80, 1)]  # so that the edge of every rate is among them
BEST = {
    "learning_rate": 10 ** (-6.0 + 0.1 * math.log10(32 / 14)),
    "batch_size": 32,
    "margin": 0.1,
    "freeze": "embeddings+output.dense.weight",
}


def settings(**changes: Any) -> config.Search:
    """A search over `SPACE`."""
    return config.Search(**{"objective": "msmarco", "space": SPACE, **changes})


def outcome(choice: Mapping[str, Any], scale: float = 1.0) -> tuple[float, float]:
    """Gain and constraint of a trial's displacement times `scale`.

    Both grow with the rate, and the whole displacement with the largest feasible gain is at the edge of harm. Scaling a
    displacement down moves it along the rate. It costs some of the gain, and more than that for extreme rates.
    """
    rate, moved = math.log10(choice["learning_rate"]), math.log10(scale)
    edge = EDGES[choice["freeze"]] + 0.1 * math.log10(choice["batch_size"] / 14)
    gain = 10 * (1 - math.exp(-(rate + moved + 8) / 1.5)) * (1 - 0.1 * ((choice["margin"] - 0.1) / 0.1) ** 2)
    return gain * math.exp(-0.1 * moved**2), 2 * (rate + moved - edge)


OPTIMUM = outcome(BEST)[0]  # of whole displacements and of edges alike


def record(number: int, choice: Mapping[str, Any], gain: float, constraint: float, **changes: Any) -> TrialRecord:
    """A trial with one evaluation point and a whole displacement of this outcome."""
    points = (Evaluation(1, 0.0, {"gain": gain, "constraint": constraint}),)
    return TrialRecord(number, choice, **{"state": "complete", "points": points, **changes})


def trained(number: int, choice: Mapping[str, Any]) -> TrialRecord:
    """The complete trial of a configuration, measured at all scales."""
    return record(number, choice, *outcome(choice), scaled=tuple(map(functools.partial(_scaled, choice), SCALES[:-1])))


def _scaled(choice: Mapping[str, Any], scale: float) -> Candidate:
    gain, constraint = outcome(choice, scale)
    return Candidate(scale, {"gain": gain, "constraint": constraint})
