"""One trial inside a Ray actor.

An actor, and the processes that it may have, load the encoder once. Later trials reuse the encoder, the tokenized
training queries and the memory-mapped documents, so that they start at once.
"""

from __future__ import annotations

import math
from typing import Any

from ray import tune

from adiabatic_ray import config
from adiabatic_ray.evaluate.embedded_data import EmbeddedData
from adiabatic_ray.sweep.cluster import ray_private
from adiabatic_ray.sweep.workers import encoder_actors
from adiabatic_ray.sweep.workers.process_group import ProcessGroupRunner
from adiabatic_ray.sweep.workers.trial_runner import TrialRunner
from adiabatic_ray.trials.record import GAIN_AT_EDGE


class QueryTuning(tune.Trainable):  # type: ignore[misc]
    """A trial as Ray Tune drives it: one `step` is the training up to the next evaluation point.

    Tune's configuration holds the trial's `number` and its `choice` of hyper-parameters. A result holds the `report`,
    and for early stopping the gain at the predicted edge.
    """

    def setup(self, chosen: dict[str, Any], sweep: config.Sweep, embedded: EmbeddedData, folder: str) -> None:
        workers = sweep.resources.workers_per_trial
        self.runner: TrialRunner | ProcessGroupRunner
        if workers == 1:
            self.runner = TrialRunner(encoder_actors.load(sweep.model), sweep, embedded, folder)
        else:
            self.runner = ProcessGroupRunner(*encoder_actors.assigned(workers), sweep, embedded, folder)
        self.sweep = sweep.name
        self._start(chosen)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._start(new_config)
        return True

    def _start(self, chosen: dict[str, Any]) -> None:
        self.runner.start(**chosen)
        self.title = f"ray::{self.sweep}, trial {chosen['number']}"

    def cleanup(self) -> None:
        self.runner.close()

    def step(self) -> dict[str, Any]:
        with ray_private.process_title(self.title):
            report = self.runner.step()
        gain = report.metrics.get(GAIN_AT_EDGE, math.nan)  # Tune refuses a result without it, also a failed trial's
        return {"report": report, "done": report.status != "running", GAIN_AT_EDGE: gain}
