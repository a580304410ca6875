"""Runs a scheduler's trials on Ray Tune. Tune owns the loop, and calls the scheduler through small adapters.

For each trial, `SchedulerSearcher` asks the scheduler for the configuration, a `QueryTuning` actor trains,
`SchedulerStopper` passes each report to the scheduler, `early_stopping` stops trials that lag behind, and
`SchedulerCallback` says how the trial ended.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from adiabatic_ray import errors
from adiabatic_ray.search.scheduler import TrialScheduler
from adiabatic_ray.sweep import early_stopping
from adiabatic_ray.sweep.cluster import ray_private
from adiabatic_ray.sweep.run import SweepRun
from adiabatic_ray.sweep.waiting import Wait
from adiabatic_ray.sweep.workers.trainable import QueryTuning


def run_trials(scheduler: TrialScheduler, run: SweepRun) -> None:
    """Run trials until `scheduler.over` or `scheduler.to_end`.

    Actors are reused for later trials, since loading the encoder may take longer than a trial. If a trial's process is
    lost, the scheduler starts the trial again as a new trial of Tune. Tune's own retries would not do: they count over
    a trial's whole life, and do not cover a process that dies between two trials.
    """
    if scheduler.over:
        return
    trainable = tune.with_resources(
        tune.with_parameters(QueryTuning, sweep=run.sweep, embedded=run.embedded, folder=str(run.store.folder.path)),
        {"cpu": run.plan.cpus, "gpu": run.plan.gpus},
    )
    # Tune needs a folder for its own state. It can be deleted, since the store has all that a resume needs.
    with tempfile.TemporaryDirectory(prefix="adiabatic-ray-") as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=SchedulerSearcher(scheduler),
                scheduler=early_stopping.for_sweep(run.sweep, scheduler),
                num_samples=-1,
                max_concurrent_trials=run.plan.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name=run.sweep.name,
                stop=SchedulerStopper(scheduler),
                callbacks=[SchedulerCallback(scheduler), PendingReporter(Wait(run.plan.trial, run.console))],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
                progress_reporter=NullReporter(),
            ),
        ).fit()
    run.console.clear()


class SchedulerSearcher(Searcher):  # type: ignore[misc]
    """Hands the scheduler's next trial to Tune."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        super().__init__()
        self.scheduler = scheduler

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002
        following = self.scheduler.next_trial()
        if following is None:
            return str(Searcher.FINISHED) if self.scheduler.over else None
        number, choice = following
        return {"number": number, "choice": choice}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Do nothing: `SchedulerCallback` handles the end of a trial, since it also gets the reason."""

    def get_state(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class SchedulerStopper(tune.Stopper):  # type: ignore[misc]
    """Passes every report to the scheduler, and stops a trial or the run if the scheduler says so."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self.scheduler = scheduler

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:  # noqa: ARG002
        return self.scheduler.reported(result["report"])

    def stop_all(self) -> bool:
        return self.scheduler.to_end


class SchedulerCallback(tune.Callback):  # type: ignore[misc]
    """Tells the scheduler that a trial ended or was lost."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self.scheduler = scheduler

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        self.scheduler.ended(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        self.scheduler.lost(trial.config["number"], _reason(trial))


class PendingReporter(tune.Callback):  # type: ignore[misc]
    """Shows that trials are pending while none runs, because no node has room for one."""

    def __init__(self, wait: Wait) -> None:
        self.wait = wait
        self.others = ray_private.actors()  # Ray Data's, which may stay; later ones belong to trials

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Pickle as an empty object, as the scheduler does."""
        return object, ()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        states = {trial.status for trial in trials}
        if Trial.PENDING not in states or Trial.RUNNING in states or (self.wait.long and self.trial_starts()):
            self.wait.over()
        else:
            self.wait.goes_on()

    def trial_starts(self) -> bool:
        """Whether a trial is scheduled: its actor loads the encoder first, which takes a while."""
        return bool(ray_private.actors() - self.others)


class NullReporter(tune.ProgressReporter):  # type: ignore[misc]
    """Shows none of Tune's own tables."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:  # noqa: ARG002
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None:
        pass


def _reason(trial: Any) -> str:
    """Why a trial's process ended, in one line.

    This reads the driver's own files. `trial.get_error` reads copies that Tune makes later.
    """
    if trial.pickled_error_file is None:  # the error is not Ray's, and Tune stored only its text
        return Path(trial.error_file).read_text().strip().splitlines()[-1]
    with Path(trial.pickled_error_file).open("rb") as file:
        error = ray.cloudpickle.load(file)  # written by this process a moment ago
    if isinstance(error, ray.exceptions.RayTaskError):
        return errors.summary(error.cause)
    if isinstance(error, ray.exceptions.RayActorError):
        if error.actor_init_failed:  # the process started, but could not load what a trial needs
            return str(error).strip().splitlines()[-1].removeprefix(f"{errors.__name__}.")
        return "its process died (killed, out of memory on its node, or its node was lost)"
    return errors.summary(error)
