"""The state of a sweep: what `status` prints, for people and for scripts."""

from __future__ import annotations

import collections
from typing import Any

from adiabatic_ray.trials.record import best, trained
from adiabatic_ray.trials.store import TrialStore


def of(store: TrialStore, *, running: bool) -> dict[str, Any]:
    """The state of a sweep as plain values; `running` says whether a process runs it.

    `trials` counts by state. `feasible` are so as they are, `feasible_scaled` others when they are scaled down.
    """
    ours = trained(record for _, record in sorted(store.records.items()))
    leader = best(store.records.values())
    candidate = leader.candidate if leader else None
    feasible = sum(record.feasible for record in ours)
    return {
        "sweep": store.sweep.name,
        "folder": str(store.folder.path),
        "running": running,
        "trials": dict(sorted(collections.Counter(record.state for record in ours).items())),
        "budget": store.sweep.budget.trials,
        "feasible": feasible,
        "feasible_scaled": sum(bool(record.candidate) for record in ours) - feasible,
        "best": None
        if leader is None or candidate is None
        else {
            "trial": leader.number,
            "gain": candidate.gain,
            "scale": candidate.scale,
            "confirmed": leader.confirmed,
            "configuration": dict(leader.config),
        },
        "unfinished": [
            {
                "trial": record.number,
                "step": record.points[-1].step if record.points else 0,
                "configuration": dict(record.config),
            }
            for record in ours
            if record.state == "running"
        ],
    }
