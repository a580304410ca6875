"""What a sweep does next, and when it is over."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adiabatic_ray import config
from adiabatic_ray.search import searcher
from adiabatic_ray.search.scheduler import TrialScheduler
from adiabatic_ray.trials.record import TrialRecord, TrialReport
from adiabatic_ray.trials.store import TrialStore
from tests.sweeps import MINIMAL, minimal

Open = Callable[..., TrialScheduler]


@pytest.fixture
def heard() -> list[TrialRecord]:
    """The records that the scheduler's listener heard of."""
    return []


@pytest.fixture
def open_scheduler(tmp_path: Path, heard: list[TrialRecord]) -> Open:
    """A scheduler on the sweep in `tmp_path`, as a new run of the sweep opens it."""

    def open_scheduler(retries: int = 0, search: config.Search = MINIMAL.search, **budget: Any) -> TrialScheduler:
        folder, resources = tmp_path / "s", config.Resources(retries=retries)
        sweep = minimal(budget=config.Budget(**budget), resources=resources, search=search)
        store = TrialStore(folder) if folder.exists() else TrialStore.create(folder, sweep)
        configurations = searcher.create(sweep.search, 0, None)
        return TrialScheduler(store, sweep, configurations, heard.append, threading.Event())

    return open_scheduler


def report(number: int, step: int = 8, status: Any = "complete", **changes: Any) -> TrialReport:
    """A report of a trial of eight steps, which is feasible."""
    made = TrialReport(number, status, step, 8, {"gain": 1.0, "constraint": -0.5}, "neutral/de/en")
    return dataclasses.replace(made, **changes)


def finish(scheduler: TrialScheduler, **changes: Any) -> int:
    """Run the next trial to its end."""
    following = scheduler.next_trial()
    assert following is not None
    number = following[0]
    scheduler.reported(report(number, **changes))
    scheduler.ended(number)
    return number


def test_trials_go_through_to_the_budget(open_scheduler: Open) -> None:
    scheduler = open_scheduler(trials=2)
    assert [finish(scheduler), finish(scheduler)] == [1, 2]
    assert scheduler.next_trial() is None
    assert scheduler.over == "all trials were run"
    assert not scheduler.failed


def test_a_grid_ends_by_itself(open_scheduler: Open) -> None:
    scheduler = open_scheduler()
    for _ in range(6):
        finish(scheduler)
    assert scheduler.next_trial() is None
    assert scheduler.over == "every configuration was tried"


def test_everything_is_on_disk_before_anyone_hears_of_it(open_scheduler: Open, heard: list[TrialRecord]) -> None:
    scheduler = open_scheduler()

    def stored(record: TrialRecord) -> None:
        assert TrialStore(scheduler.store.folder.path).records == {1: record}
        heard.append(record)

    scheduler.listener = stored
    finish(scheduler)
    assert [record.state for record in heard] == ["running", "running", "complete"]
    assert TrialStore(scheduler.store.folder.path).records == {1: heard[-1]}


WHOLE = dataclasses.replace(MINIMAL.search, candidates="whole")


def test_harm_beyond_doubt_stops_a_trial(open_scheduler: Open) -> None:
    """Only where trials are judged by their whole displacements: a harmful one may have the best edge."""
    scheduler = open_scheduler(search=WHOLE)
    scheduler.next_trial()
    assert scheduler.reported(report(1, step=4, status="running")) is False
    assert scheduler.reported(report(1, step=6, status="running", harmful=True)) is True
    scheduler.ended(1)
    record = scheduler.store.records[1]
    assert record.state == "stopped"
    assert record.reason == "significantly harmful at step 6 of 8"
    assert [point.step for point in record.points] == [4, 6]


def test_harm_at_the_end_is_no_stop_and_stopping_can_be_off(open_scheduler: Open) -> None:
    scheduler = open_scheduler(search=WHOLE)
    scheduler.next_trial()
    assert scheduler.reported(report(1, harmful=True)) is False
    scheduler.ended(1)
    assert scheduler.store.records[1].state == "complete"
    for patient in (open_scheduler(search=WHOLE, stop_harmful=False), open_scheduler()):
        following = patient.next_trial()
        assert following is not None
        assert patient.reported(report(following[0], step=4, status="running", harmful=True)) is False


def test_a_trial_that_lags_behind_is_stopped(open_scheduler: Open) -> None:
    scheduler = open_scheduler()
    scheduler.next_trial()
    scheduler.reported(report(1, step=4, status="running"))
    scheduler.stop_early(1, "it lags behind")
    scheduler.ended(1)
    record = scheduler.store.records[1]
    assert (record.state, record.reason, record.candidate) == ("stopped", "it lags behind", None)
    assert not scheduler.store.folder.trial(1).displacement.exists()


@pytest.mark.parametrize("status", ["diverged", "out_of_memory", "crashed"])
def test_a_failed_trial_is_a_result(open_scheduler: Open, status: str) -> None:
    scheduler = open_scheduler()
    finish(scheduler, status=status, reason="why", metrics={})
    record = scheduler.store.records[1]
    assert (record.state, record.reason, record.feasible, record.failed) == (status, "why", False, True)
    assert scheduler.next_trial() is not None


def test_crashes_use_up_their_budget_and_divergence_does_not(open_scheduler: Open) -> None:
    scheduler = open_scheduler(failed_trials=1)
    for status in ("diverged", "out_of_memory", "diverged", "crashed"):
        finish(scheduler, status=status, metrics={})
    following = scheduler.next_trial()
    assert following is not None
    scheduler.ended(following[0], crash="its process died")
    assert scheduler.next_trial() is None
    assert scheduler.failed
    assert "2 trials crashed, and `budget.failed_trials` allows 1; the last one: its process died" in scheduler.over


def test_a_lost_trial_starts_again_unless_it_comes_no_further(open_scheduler: Open, heard: list[TrialRecord]) -> None:
    scheduler = open_scheduler(retries=1, failed_trials=0)
    number, choice = scheduler.next_trial() or (0, {})
    for step in (2, 4, 6):  # on a spot node, say: each time it had come further
        scheduler.reported(report(number, step=step, status="running"))
        scheduler.lost(number, "its node was lost")
        assert (heard[-1].state, heard[-1].reason) == ("running", f"its node was lost; starts again after step {step}")
        assert scheduler.next_trial() == (number, choice)
    scheduler.lost(number, "its process died")  # a second time after the same step
    crashed = scheduler.store.records[number]
    assert (crashed.state, crashed.reason) == ("crashed", "its process died")
    assert scheduler.failed


def test_a_trial_that_waits_for_the_storage_is_told_once(open_scheduler: Open, heard: list[TrialRecord]) -> None:
    scheduler = open_scheduler(trials=2)
    number, _ = scheduler.next_trial() or (0, {})
    waits = TrialReport(number, "running", waits="OSError: No space left on device")
    del heard[:]
    for _ in range(3):
        assert not scheduler.reported(waits)
    (told,) = heard
    assert told.state == "running"
    assert str(scheduler.store.folder.path) in told.reason
    assert "No space left on device; " in told.reason
    assert "MB free" in told.reason
    scheduler.reported(report(number, step=4, status="running"))
    scheduler.reported(waits)  # a second wait
    assert sum("No space" in record.reason for record in heard) == 2
    assert scheduler.store.records[number].reason == ""
    scheduler.reported(report(number))
    scheduler.ended(number)
    assert scheduler.store.records[number].state == "complete"


def test_the_last_trial_may_be_lost_too(open_scheduler: Open) -> None:
    scheduler = open_scheduler(retries=1, trials=1)
    number, choice = scheduler.next_trial() or (0, {})
    assert scheduler.next_trial() is None
    assert not scheduler.over  # not while the last one runs, which may be lost
    scheduler.lost(number, "its node was lost")
    assert scheduler.next_trial() == (number, choice)
    scheduler.reported(report(number))
    scheduler.ended(number)
    assert scheduler.store.records[number].reason == ""
    assert scheduler.next_trial() is None
    assert scheduler.over == "all trials were run"


def test_a_feasible_trial_at_the_target_ends_the_sweep(open_scheduler: Open) -> None:
    scheduler = open_scheduler(target_gain=3.0)
    finish(scheduler, metrics={"gain": 9.0, "constraint": 0.1})  # infeasible
    finish(scheduler, metrics={"gain": 2.9, "constraint": -0.1})
    assert not scheduler.over
    finish(scheduler, metrics={"gain": 3.1, "constraint": -0.1})
    assert scheduler.next_trial() is None
    assert scheduler.over == "a feasible trial reached the target gain of 3%"
    assert open_scheduler(target_gain=3.0).next_trial() is None  # and stays over when run again


def test_the_run_ends_on_a_signal_and_when_its_hours_are_up(open_scheduler: Open) -> None:
    scheduler = open_scheduler(hours=1e-9)
    assert scheduler.to_end
    scheduler = open_scheduler()
    assert not scheduler.to_end
    scheduler.interrupted.set()
    assert scheduler.to_end


def test_a_trial_that_was_cut_off_goes_first_when_resumed(open_scheduler: Open) -> None:
    scheduler = open_scheduler()
    finish(scheduler)
    number, choice = scheduler.next_trial() or (0, {})
    scheduler.reported(report(number, step=4, status="running"))
    scheduler.ended(number)  # Tune ends it with the run; the scheduler leaves it unfinished
    assert scheduler.store.records[number].state == "running"

    again = open_scheduler()
    assert again.next_trial() == (number, choice)
    following = again.next_trial()
    assert following is not None
    assert following[0] == 3


def test_points_that_are_reached_again_are_not_doubled(open_scheduler: Open) -> None:
    scheduler = open_scheduler()
    scheduler.next_trial()
    for step in (4, 6, 6, 4, 6):
        scheduler.reported(report(1, step=step, status="running"))
    assert [point.step for point in scheduler.store.records[1].points] == [4, 6]


def finish_with_displacements(scheduler: TrialScheduler, *outcomes: tuple[float, float]) -> list[int]:
    """Run trials of these gains and constraints to their ends; the numbers of those whose displacements are left."""
    numbers = range(1, len(outcomes) + 1)
    for number, (gain, constraint) in zip(numbers, outcomes, strict=True):
        displacement = scheduler.store.folder.trial(number).displacement
        displacement.parent.mkdir(parents=True)
        displacement.write_text("")
        finish(scheduler, metrics={"gain": gain, "constraint": constraint})
    return [number for number in numbers if scheduler.store.folder.trial(number).displacement.exists()]


def test_only_displacements_that_may_be_confirmed_are_kept(open_scheduler: Open) -> None:
    outcomes = ((1.0, -0.5), (3.0, -0.5), (9.0, 1.0), (2.0, -0.5), (0.5, -0.5))
    assert finish_with_displacements(open_scheduler(confirm=1), *outcomes) == [2]


def test_the_least_infeasible_displacement_is_kept_where_none_is_feasible(open_scheduler: Open) -> None:
    assert finish_with_displacements(open_scheduler(confirm=2), (1.0, 2.0), (1.0, 0.5), (1.0, 1.0)) == [2]
