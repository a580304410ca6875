"""Runs a sweep from its file to its result: data, frozen documents, trials on Ray Tune, confirmation, report, model.

Everything that a resume needs is in the sweep's folder (see `trials.layout`), and nothing is in Ray. So a sweep that
was interrupted goes on when it is run again: ended trials are read from the folder, unfinished ones continue from their
checkpoints, and Tune runs only the trials that are left.
"""

from __future__ import annotations

from adiabatic_ray import config, errors
from adiabatic_ray.search import searcher, space
from adiabatic_ray.sweep import fixed_sequence, session, soup
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.run import SweepRun
from adiabatic_ray.sweep.tune_loop import run_trials
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import TrialRecord, best, trained


def run(sweep: config.Sweep, console: Console) -> TrialRecord | None:
    """Run a sweep, or go on with an earlier run of it. Return the best trial, or `None` if none can be handed over.

    Raises:
        AdiabaticRayError: something failed that the user can fix. Trials that had ended are kept.
        KeyboardInterrupt: the user stopped the sweep. Running it again goes on with it.
    """
    session.require_lasting(sweep)
    folder = StorageFolder.at(sweep.storage).sweep(sweep.name)
    with SweepRun(sweep, folder, console) as run:
        if run.resumed:
            console.say(f"{sweep.name}: going on after {len(trained(run.store.finished()))} finished trials")
        run.connect(space.num_trials(sweep), space.describe_trials(sweep))
        run.embed()
        run.mirror_to_mlflow()
        scheduler = run.scheduler(searcher.create(sweep.search, sweep.seed, sweep.budget.trials))
        status = "FAILED"
        try:
            # For each trial, `scheduler.next_trial` gives the configuration, `reported` records each evaluation, and
            # `ended` passes the result to the search. This ends with `scheduler.over` or `scheduler.to_end`.
            run_trials(scheduler, run)
            if not run.interrupted.is_set():
                soup.add(run)
            if not run.interrupted.is_set():
                fixed_sequence.test(run)
            if not run.interrupted.is_set():
                run.hand_over()
            status = "FAILED" if scheduler.failed else "FINISHED"
        except errors.StorageError:  # of which the user has heard
            if not run.interrupted.is_set():
                raise
        finally:
            run.finish("KILLED" if run.interrupted.is_set() else status)
        if run.interrupted.is_set():
            raise KeyboardInterrupt
        if scheduler.failed:
            raise errors.SweepError(scheduler.over)
        console.say(f"the sweep is over: {scheduler.over or 'its hours are up; run the same command to go on'}")
        return best(run.store.records.values())
