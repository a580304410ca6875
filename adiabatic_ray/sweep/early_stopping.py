"""Stops trials early with Ray Tune's ASHA, asynchronous successive halving (Li et al. 2020, arXiv 1810.05934).

At certain evaluation points, the rungs, a trial goes on only if its gain is among the best of all trials that came as
far. The gain is that at the predicted edge, so a trial is never stopped for being harmful as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from adiabatic_ray import config
from adiabatic_ray.search.scheduler import TrialScheduler
from adiabatic_ray.trials.record import GAIN_AT_EDGE, TrialRecord, trained

EVALUATION = "evaluation"  # the number of a trial's evaluation point, from 1 on
FIRST_RUNG = 1  # a trial may be stopped after so many evaluations
REDUCTION = 2  # one trial in so many goes on at each rung, and the next rung is after so many times the evaluations


def for_sweep(sweep: config.Sweep, scheduler: TrialScheduler) -> EarlyStopping | None:
    """The sweep's early stopping. `None` if it has none."""
    return EarlyStopping(scheduler, sweep.train.evaluations) if sweep.budget.early_stopping == "asha" else None


class EarlyStopping(ASHAScheduler):  # type: ignore[misc]
    """Tune's ASHA, told of the sweep's trials by their numbers and of their points as they are stored.

    A trial that goes on from a checkpoint is a new trial of Tune, whose iterations start at 1 again. The stored points
    count on. They also bring the rungs back when a sweep is resumed.
    """

    def __init__(self, scheduler: TrialScheduler, evaluations: int) -> None:
        super().__init__(
            time_attr=EVALUATION,
            metric=GAIN_AT_EDGE,
            mode="max",
            max_t=evaluations,
            grace_period=FIRST_RUNG,
            reduction_factor=REDUCTION,
            stop_last_trials=False,  # they end by themselves
        )
        self.scheduler, self.evaluations = scheduler, evaluations
        for record in trained(scheduler.store.records.values()):
            self._replay(record)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _Numbered.of(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        numbered = _Numbered.of(trial)
        evaluation = len(self.scheduler.store.records[numbered.trial_id].points)
        decision = str(super().on_trial_result(tune_controller, numbered, result | {EVALUATION: evaluation}))
        if decision == self.STOP:
            self.scheduler.stop_early(
                numbered.trial_id,
                f"its predicted gain at the edge, {result[GAIN_AT_EDGE]:+.2f}%, lags behind that of other trials at "
                f"evaluation {evaluation} of {self.evaluations}",
            )
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Do nothing: a trial is judged at its reports, and not at its end."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Do nothing: a trial that has not started is in no rung."""

    def _replay(self, record: TrialRecord) -> None:
        """Put a stored trial on the rungs that it reached. It was judged then, at each point but its end."""
        numbered, points = _Numbered(record.number), record.points
        super().on_trial_add(None, numbered)
        for evaluation, point in enumerate(points[:-1] if record.state == "complete" else points, start=1):
            super().on_trial_result(None, numbered, {EVALUATION: evaluation, **point.metrics})


@dataclass(frozen=True)
class _Numbered:
    """A trial as ASHA knows it: all that it reads is the id."""

    trial_id: int

    @classmethod
    def of(cls, trial: Any) -> _Numbered:
        return cls(trial.config["number"])
