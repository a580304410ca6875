"""The loop that Ray Tune turns inside out: what it asks the scheduler, and what it tells it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle, tune
from ray.tune.search import Searcher

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate.embedded_data import EmbeddedData
from adiabatic_ray.search.scheduler import TrialScheduler
from adiabatic_ray.search.searcher import ListSearch
from adiabatic_ray.sweep import tune_loop
from adiabatic_ray.sweep.cluster.resources import Plan
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.run import SweepRun
from adiabatic_ray.sweep.tune_loop import (
    PendingReporter,
    SchedulerCallback,
    SchedulerSearcher,
    SchedulerStopper,
    run_trials,
)
from adiabatic_ray.sweep.waiting import Wait
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import TrialReport
from adiabatic_ray.trials.store import TrialStore
from tests import sweeps
from tests.terminal import rays_lines

ONE = Plan(cpus=1, gpus=0, concurrent=1, workers=1, fitting=2, filling_cpus=2)
CHOICES: list[dict[str, config.Scalar]] = [{"learning_rate": rate} for rate in (1e-8, 1e-7)]


def report(number: int, status: str = "complete", *, harmful: bool = False) -> TrialReport:
    metrics = {"gain": 1.0, "constraint": 0.5 if harmful else -0.5}
    return TrialReport(number, status, 8, 8, metrics, harmful=harmful)  # type: ignore[arg-type]


@pytest.fixture
def interrupted() -> threading.Event:
    return threading.Event()


@pytest.fixture
def scheduler(tmp_path: Path, interrupted: threading.Event) -> TrialScheduler:
    """A scheduler of two trials."""
    store = TrialStore.create(tmp_path / "s", sweeps.MINIMAL)
    return TrialScheduler(store, sweeps.MINIMAL, ListSearch(CHOICES), lambda _: None, interrupted)


def test_tune_is_given_the_schedulers_trials(scheduler: TrialScheduler) -> None:
    searcher, stopper = SchedulerSearcher(scheduler), SchedulerStopper(scheduler)
    for number, choice in enumerate(CHOICES, start=1):
        assert searcher.suggest(f"tune-{number}") == {"number": number, "choice": choice}
    assert searcher.suggest("tune-3") is None  # both run, and either may be lost and start again
    for number in (1, 2):
        assert stopper(f"tune-{number}", {"report": report(number)}) is False
        scheduler.ended(number)
    assert searcher.suggest("tune-3") == Searcher.FINISHED
    assert scheduler.over == "every configuration was tried"


def test_harm_stops_a_trial_and_the_user_stops_all(scheduler: TrialScheduler, interrupted: threading.Event) -> None:
    scheduler.stops_harmful = True
    searcher, stopper = SchedulerSearcher(scheduler), SchedulerStopper(scheduler)
    searcher.suggest("tune-1")
    assert stopper("tune-1", {"report": report(1, "running")}) is False
    assert stopper("tune-1", {"report": report(1, "running", harmful=True)}) is True
    assert not stopper.stop_all()
    interrupted.set()
    assert stopper.stop_all()


@pytest.mark.usefixtures("ray_cluster")
def test_what_tune_pickles_needs_none_of_what_it_holds(scheduler: TrialScheduler) -> None:
    """Tune keeps its searcher, stopper and callbacks on disk, so as to restore them, which is never done here."""
    held = [SchedulerSearcher(scheduler), SchedulerStopper(scheduler), SchedulerCallback(scheduler)]
    held.append(PendingReporter(Wait(ONE.trial, Console(quiet=True))))
    for one in held:
        assert len(cloudpickle.dumps(one)) < 2000


class Scripted(tune.Trainable):  # type: ignore[misc]
    """A trial that ends as its choice says."""

    def setup(self, chosen: dict[str, Any], **_: Any) -> None:
        self.start(chosen)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.start(new_config)
        return True

    def start(self, chosen: dict[str, Any]) -> None:
        self.number, self.ending = chosen["number"], chosen["choice"]["ending"]
        if self.ending == "cannot load":
            raise errors.ModelError("the encoder is gone")

    def step(self) -> dict[str, Any]:
        if self.ending == "raises":
            raise ZeroDivisionError("a bug")
        if self.ending == "dies":
            os._exit(1)
        return {"report": report(self.number), "done": True}


@pytest.fixture
def run(
    load_sweep: Callable[..., config.Sweep], embedded: EmbeddedData, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SweepRun]:
    """A run that has come to its trials, which are scripted."""
    monkeypatch.setattr(tune_loop, "QueryTuning", Scripted)
    sweep = load_sweep({"resources.retries": 0, "budget.trials": 9})
    with SweepRun(sweep, StorageFolder.at(sweep.storage).sweep(sweep.name), Console()) as run:
        run.plan, run.embedded, run.trials = ONE, embedded, 4
        yield run


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_how_each_trial_ended_is_told(run: SweepRun, capfd: pytest.CaptureFixture[str]) -> None:
    endings = ["completes", "raises", "dies", "cannot load", "completes again"]
    scheduler = run.scheduler(ListSearch([{"ending": ending} for ending in endings]))
    run_trials(scheduler, run)
    ended = {record.config["ending"]: (record.state, record.reason) for record in run.store.records.values()}
    assert ended == {
        "completes": ("complete", ""),
        "raises": ("crashed", "ZeroDivisionError: a bug"),
        "dies": ("crashed", "its process died (killed, out of memory on its node, or its node was lost)"),
        "cannot load": ("crashed", ended["cannot load"][1]),
        "completes again": ("complete", ""),
    }
    assert ended["cannot load"][1].startswith("ModelError: the encoder is gone")
    assert scheduler.over == "every configuration was tried"
    assert rays_lines("".join(capfd.readouterr())) == []


def test_where_all_is_over_tune_is_not_started(run: SweepRun) -> None:
    scheduler = run.scheduler(ListSearch([]))
    assert scheduler.next_trial() is None
    assert scheduler.over
    run_trials(scheduler, run)
    assert run.store.records == {}
