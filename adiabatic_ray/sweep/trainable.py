"""One trial inside a Ray actor.

An actor, and the processes that it may have, load the encoder once. Trials that follow each other on it share the
encoder, the tokenized training queries and the memory-mapped documents, so that the next one starts at once.
"""

from __future__ import annotations

from typing import Any

from ray import tune

from adiabatic_ray import config
from adiabatic_ray.sweep import embedding
from adiabatic_ray.sweep.attempt import Attempt
from adiabatic_ray.sweep.materials import Materials
from adiabatic_ray.sweep.team import Team


class QueryTuning(tune.Trainable):  # type: ignore[misc]
    """A trial as Ray Tune drives it: one `step` is the training up to the next evaluation point."""

    def setup(self, chosen: dict[str, Any], sweep: config.Sweep, shared: Materials, folder: str) -> None:
        workers = sweep.resources.workers_per_trial
        self.attempt: Attempt | Team
        if workers == 1:
            self.attempt = Attempt(embedding.load(sweep.model), sweep, shared, folder)
        else:
            self.attempt = Team(workers, *embedding.assigned(workers), sweep, shared, folder)
        self.attempt.start(chosen)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.attempt.start(new_config)
        return True

    def cleanup(self) -> None:
        self.attempt.close()

    def step(self) -> dict[str, Any]:
        report = self.attempt.step()
        return {"report": report, "done": report["status"] != "running"}
