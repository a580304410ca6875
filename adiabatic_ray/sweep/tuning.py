"""Running the books' trials on Ray Tune."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from adiabatic_ray import config, errors
from adiabatic_ray.sweep import waiting
from adiabatic_ray.sweep.books import Books
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.materials import Materials
from adiabatic_ray.sweep.resources import Plan
from adiabatic_ray.sweep.trainable import QueryTuning
from adiabatic_ray.sweep.waiting import Wait


def run_trials(books: Books, sweep: config.Sweep, shared: Materials, layout: Plan, console: Console) -> None:
    """Run trials until the books say that it is over, or that the run is to end.

    Actors are kept from trial to trial, since loading the encoder takes longer than many a trial. A trial whose process
    is lost is started again by the books, as another of Tune's trials: Tune's own retries are counted over a trial's
    whole life, and do not hold where a process dies between two trials.
    """
    trainable = tune.with_resources(
        tune.with_parameters(QueryTuning, sweep=sweep, shared=shared, folder=str(books.ledger.folder)),
        {"cpu": layout.cpus, "gpu": layout.gpus},
    )
    # Tune insists on a folder for its own state, which is of no use here: the ledger has all that a resume needs.
    with tempfile.TemporaryDirectory(prefix="adiabatic-ray-") as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Asking(books),
                num_samples=-1,
                max_concurrent_trials=layout.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name=sweep.name,
                stop=_Stopping(books),
                callbacks=[_Telling(books), _Waiting(Wait(layout.trial, console))],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
                progress_reporter=_Silent(),
            ),
        ).fit()


class _Asking(Searcher):  # type: ignore[misc]
    """Hands the books' next trial to Tune."""

    def __init__(self, books: Books) -> None:
        super().__init__()
        self.books = books

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002
        following = self.books.next_trial()
        if following is None:
            return str(Searcher.FINISHED) if self.books.over else None
        number, choice = following
        return {"number": number, **choice}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """`_Telling` does this, which also learns of the reason."""

    def get_state(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class _Stopping(tune.Stopper):  # type: ignore[misc]
    """Every report of every trial comes by here first: takes it to the books, and stops what they say."""

    def __init__(self, books: Books) -> None:
        self.books = books

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:  # noqa: ARG002
        return self.books.reported(result["report"])

    def stop_all(self) -> bool:
        return self.books.to_end


class _Telling(tune.Callback):  # type: ignore[misc]
    """Takes the ends of trials to the books."""

    def __init__(self, books: Books) -> None:
        self.books = books

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        self.books.ended(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        self.books.lost(trial.config["number"], _reason(trial))


class _Waiting(tune.Callback):  # type: ignore[misc]
    """Shows it where trials are to run and none does, since no node has room for one."""

    def __init__(self, wait: Wait) -> None:
        self.wait = wait
        self.others = waiting.actors()  # Ray Data leaves some behind; those that come after are trials'

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune pickles its callbacks, so as to restore them, as it does the books."""
        return object, ()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        states = {trial.status for trial in trials}
        if Trial.PENDING not in states or Trial.RUNNING in states or (self.wait.long and self.trial_starts()):
            self.wait.over()
        else:
            self.wait.goes_on()

    def trial_starts(self) -> bool:
        """Whether a trial has its place, and its actor loads the encoder, which takes a while."""
        return bool(waiting.actors() - self.others)


class _Silent(tune.ProgressReporter):  # type: ignore[misc]
    """Tune's own tables are not shown."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:  # noqa: ARG002
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None:
        pass


def _reason(trial: Any) -> str:
    """What ended a trial's process, in a line.

    `trial.get_error` would look where Tune copies its files to later; the driver's own copy is there already.
    """
    if trial.pickled_error_file is None:  # no error of Ray's: Tune keeps its text only
        return Path(trial.error_file).read_text().strip().splitlines()[-1]
    with Path(trial.pickled_error_file).open("rb") as file:
        error = ray.cloudpickle.load(file)  # written by this process a moment ago
    if isinstance(error, ray.exceptions.RayTaskError):
        return errors.summary(error.cause)
    if isinstance(error, ray.exceptions.RayActorError):
        if error.actor_init_failed:  # the process came up, and could not load what a trial needs
            return str(error).strip().splitlines()[-1].removeprefix(f"{errors.__name__}.")
        return "its process died (killed, out of memory on its node, or its node was lost)"
    return errors.summary(error)
