"""What a sweep does next, and when it is over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adiabatic_ray import config
from adiabatic_ray.report.ledger import Ledger, Record
from adiabatic_ray.sweep import searcher
from adiabatic_ray.sweep.books import Books

GRID = config.Search(
    objective="m", method="grid", space={"learning_rate": [1e-8, 1e-7, 1e-6], "freeze": ["none", "embeddings"]}
)


@pytest.fixture
def heard() -> list[Record]:
    return []


@pytest.fixture
def open_books(tmp_path: Path, heard: list[Record]) -> Callable[..., Books]:
    """Books on the sweep in `tmp_path`, as a new run of it would open them."""

    def open_books(retries: int = 0, **budget: Any) -> Books:
        folder = tmp_path / "s"
        ledger = Ledger(folder) if folder.exists() else Ledger.create(folder, {})
        search = searcher.create(GRID, 0, None)
        return Books(ledger, search, config.Budget(**budget), heard.append, threading.Event(), retries)

    return open_books


def report(number: int, step: int = 8, status: str = "complete", **changes: Any) -> dict[str, Any]:
    made = {
        "number": number,
        "status": status,
        "reason": "",
        "step": step,
        "steps": 8,
        "metrics": {"gain": 1.0, "constraint": -0.5},
        "worst": "neutral/de/en",
        "scaled": [],
        "harmful": False,
    }
    return made | changes


def finish(books: Books, **changes: Any) -> int:
    """Run the next trial to its end."""
    following = books.next_trial()
    assert following is not None
    number = following[0]
    books.reported(report(number, **changes))
    books.ended(number)
    return number


def test_trials_go_through_to_the_budget(open_books: Callable[..., Books]) -> None:
    books = open_books(trials=2)
    assert [finish(books), finish(books)] == [1, 2]
    assert books.next_trial() is None
    assert books.over == "all trials were run"
    assert not books.failed


def test_a_grid_ends_by_itself(open_books: Callable[..., Books]) -> None:
    books = open_books()
    for _ in range(6):
        finish(books)
    assert books.next_trial() is None
    assert books.over == "every configuration was tried"


def test_everything_is_on_disk_before_anyone_hears_of_it(open_books: Callable[..., Books], heard: list[Record]) -> None:
    books = open_books()
    finish(books)
    assert [record.state for record in heard] == ["running", "running", "complete"]
    assert Ledger(books.ledger.folder).records == {1: heard[-1]}


def test_harm_beyond_doubt_stops_a_trial(open_books: Callable[..., Books]) -> None:
    books = open_books()
    books.next_trial()
    assert books.reported(report(1, step=4, status="running")) is False
    assert books.reported(report(1, step=6, status="running", harmful=True)) is True
    books.ended(1)
    record = books.ledger.records[1]
    assert record.state == "stopped"
    assert record.reason == "significantly harmful at step 6 of 8"
    assert [point.step for point in record.points] == [4, 6]


def test_harm_at_the_end_is_no_stop_and_stopping_can_be_off(open_books: Callable[..., Books]) -> None:
    books = open_books()
    books.next_trial()
    assert books.reported(report(1, harmful=True)) is False
    books.ended(1)
    assert books.ledger.records[1].state == "complete"
    patient = open_books(stop_harmful=False)
    patient.next_trial()
    assert patient.reported(report(2, step=4, status="running", harmful=True)) is False


@pytest.mark.parametrize("status", ["diverged", "out_of_memory", "crashed"])
def test_a_failed_trial_is_a_result(open_books: Callable[..., Books], status: str) -> None:
    books = open_books()
    finish(books, status=status, reason="why", metrics={})
    record = books.ledger.records[1]
    assert (record.state, record.reason, record.feasible, record.failed) == (status, "why", False, True)
    assert books.next_trial() is not None


def test_crashes_use_up_their_budget_and_divergence_does_not(open_books: Callable[..., Books]) -> None:
    books = open_books(failed_trials=1)
    for status in ("diverged", "out_of_memory", "diverged", "crashed"):
        finish(books, status=status, metrics={})
    following = books.next_trial()
    assert following is not None
    books.ended(following[0], crash="its process died")
    assert books.next_trial() is None
    assert books.failed
    assert "2 trials crashed, and `budget.failed_trials` allows 1; the last one: its process died" in books.over


def test_a_lost_trial_starts_again_unless_it_comes_no_further(
    open_books: Callable[..., Books], heard: list[Record]
) -> None:
    books = open_books(retries=1, failed_trials=0)
    number, choice = books.next_trial() or (0, {})
    for step in (2, 4, 6):  # on a spot node, say: each time it had come further
        books.reported(report(number, step=step, status="running"))
        books.lost(number, "its node was lost")
        assert (heard[-1].state, heard[-1].reason) == ("running", f"its node was lost; starts again after step {step}")
        assert books.next_trial() == (number, choice)
    books.lost(number, "its process died")  # a second time after the same step
    assert (books.ledger.records[number].state, books.ledger.records[number].reason) == ("crashed", "its process died")
    assert books.failed


def test_the_last_trial_may_be_lost_too(open_books: Callable[..., Books]) -> None:
    books = open_books(retries=1, trials=1)
    number, choice = books.next_trial() or (0, {})
    assert books.next_trial() is None
    assert not books.over  # not while the last one runs, which may be lost
    books.lost(number, "its node was lost")
    assert books.next_trial() == (number, choice)
    books.reported(report(number))
    books.ended(number)
    assert books.ledger.records[number].reason == ""
    assert books.next_trial() is None
    assert books.over == "all trials were run"


def test_a_feasible_trial_at_the_target_ends_the_sweep(open_books: Callable[..., Books]) -> None:
    books = open_books(target_gain=3.0)
    finish(books, metrics={"gain": 9.0, "constraint": 0.1})  # infeasible
    finish(books, metrics={"gain": 2.9, "constraint": -0.1})
    assert not books.over
    finish(books, metrics={"gain": 3.1, "constraint": -0.1})
    assert books.next_trial() is None
    assert books.over == "a feasible trial reached the target gain of 3%"
    assert open_books(target_gain=3.0).next_trial() is None  # and stays over when run again


def test_the_run_ends_on_a_signal_and_when_its_hours_are_up(open_books: Callable[..., Books]) -> None:
    books = open_books(hours=1e-9)
    assert books.to_end
    books = open_books()
    assert not books.to_end
    books.interrupted.set()
    assert books.to_end


def test_a_trial_that_was_cut_off_goes_first_when_resumed(open_books: Callable[..., Books]) -> None:
    books = open_books()
    finish(books)
    number, choice = books.next_trial() or (0, {})
    books.reported(report(number, step=4, status="running"))
    books.ended(number)  # Tune ends it with the run; the books leave it unfinished
    assert books.ledger.records[number].state == "running"

    again = open_books()
    assert again.next_trial() == (number, choice)
    following = again.next_trial()
    assert following is not None
    assert following[0] == 3


def test_points_that_are_reached_again_are_not_doubled(open_books: Callable[..., Books]) -> None:
    books = open_books()
    books.next_trial()
    for step in (4, 6, 6, 4, 6):
        books.reported(report(1, step=step, status="running"))
    assert [point.step for point in books.ledger.records[1].points] == [4, 6]


def test_only_displacements_that_may_be_confirmed_are_kept(open_books: Callable[..., Books]) -> None:
    books = open_books(confirm=1)
    for gain, constraint in ((1.0, -0.5), (3.0, -0.5), (9.0, 1.0), (2.0, -0.5), (0.5, -0.5)):
        number = max(books.ledger.records, default=0) + 1
        folder = books.ledger.trial_folder(number)
        folder.mkdir(parents=True)
        (folder / "displacement.safetensors").write_text("")
        finish(books, metrics={"gain": gain, "constraint": constraint})
    kept = [path.parent.name for path in books.ledger.folder.glob("trials/*/displacement.safetensors")]
    assert kept == ["0002"]


def test_the_least_infeasible_displacement_is_kept_where_none_is_feasible(open_books: Callable[..., Books]) -> None:
    books = open_books(confirm=2)
    for constraint in (2.0, 0.5, 1.0):
        number = max(books.ledger.records, default=0) + 1
        folder = books.ledger.trial_folder(number)
        folder.mkdir(parents=True)
        (folder / "displacement.safetensors").write_text("")
        finish(books, metrics={"gain": 1.0, "constraint": constraint})
    kept = [path.parent.name for path in books.ledger.folder.glob("trials/*/displacement.safetensors")]
    assert kept == ["0002"]
