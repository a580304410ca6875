"""The tests of candidates on the confirmation sets: their order, where they end, and how an interrupted run goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adiabatic_ray import config, storage
from adiabatic_ray.sweep import fixed_sequence
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.workers import encoder_tasks
from adiabatic_ray.trials.layout import TrialFolder
from adiabatic_ray.trials.record import Candidate, Confirmation, ProfilePoint, TrialRecord, best
from adiabatic_ray.trials.store import TrialStore
from tests.records import record
from tests.sweeps import minimal


def trial(number: int, gain: float, evidence: float) -> TrialRecord:
    """A trial whose edge is at scale 0.5, and that is safer the more it is scaled down."""
    edge = Candidate(0.5, {"gain": gain, "constraint": -0.1})
    profile = tuple(ProfilePoint(s, 2 * s * gain, 2 * s - 1.1, evidence + 2 - 4 * s) for s in (0.125, 0.25, 0.5, 1.0))
    return record(number, 2 * gain, 0.9, scaled=(edge,), profile=profile)


class ScriptedTasks:
    """Candidates above a gain fail their tests. `interrupt` sets the user's interrupt after so many tests."""

    def __init__(self, limit: float, interrupted: threading.Event, interrupt: int = 99) -> None:
        self.limit, self.interrupted, self.interrupt = limit, interrupted, interrupt
        self.tested: list[float] = []
        self.measured: list[float] = []

    def run(self, work: Any, _sweep: Any, _embedded: Any, *arguments: Any) -> Iterator[Any]:
        if work == encoder_tasks.measure_selected:
            self.measured.append(arguments[1])
            yield Candidate(arguments[1], {"gain": 3.25, "constraint": -0.3}, "neutral/de/en")
            return
        for _folder, scale, gain in arguments[0]:
            self.tested.append(gain)
            failure = "it harms" if gain > self.limit else ""
            if len(self.tested) == self.interrupt:
                self.interrupted.set()
            yield Confirmation(scale, gain, {"gain": gain, "constraint": -0.2}, failure)
            if failure:
                return


def run_on(folder: Path, limit: float, interrupt: int = 99, *records: TrialRecord) -> tuple[TrialStore, ScriptedTasks]:
    """Test the candidates of a sweep in a folder, as a new run of it."""
    sweep = minimal(budget=config.Budget(confirm=6))
    store = TrialStore(folder) if folder.exists() else TrialStore.create(folder, sweep)
    for one in records:
        store.put(one)
        storage.write(TrialFolder(store.folder.trial(one.number).path).displacement, "")
    interrupted = threading.Event()
    tasks = ScriptedTasks(limit, interrupted, interrupt)
    run: Any = SimpleNamespace(
        store=store,
        sweep=sweep,
        tasks=tasks,
        console=Console(quiet=True),
        interrupted=interrupted,
        embedded=SimpleNamespace(confirmation=["xnli"]),
    )
    fixed_sequence.test(run)
    return store, tasks


TRIALS = (record(0), trial(1, 4.0, 1.0), trial(2, 6.0, 0.0), record(3, 9.0, 0.5))


def test_candidates_are_tested_from_safe_to_bold_until_one_fails(tmp_path: Path) -> None:
    store, tasks = run_on(tmp_path / "s", 4.0, 99, *TRIALS)
    order = [rung["gain"] for rung in store.orders()[0]["order"]]
    assert order == sorted(order)
    assert max(order) == 6.0  # of several trials, along their scales
    assert tasks.tested == order[: len(tasks.tested)]
    assert tasks.tested[-1] > 4.0
    assert all(gain <= 4.0 for gain in tasks.tested[:-1])
    winner = best(store.records.values())
    assert winner is not None
    assert winner.candidate is not None
    assert winner.candidate.gain == tasks.tested[-2]
    tests = {(n, one.scale, one.failure) for n, r in store.records.items() for one in r.confirmations}
    assert len(tests) == len(tasks.tested)


@pytest.mark.parametrize("interrupt", [1, 2, 3])
def test_a_run_that_was_cut_off_goes_on_in_the_same_order(tmp_path: Path, interrupt: int) -> None:
    unbroken, whole = run_on(tmp_path / "unbroken", 4.0, 99, *TRIALS)
    _, first = run_on(tmp_path / "broken", 4.0, interrupt, *TRIALS)
    store, rest = run_on(tmp_path / "broken", 4.0)
    assert first.tested + rest.tested == whole.tested
    assert store.orders() == unbroken.orders()
    assert store.records == unbroken.records
    assert run_on(tmp_path / "broken", 4.0)[1].tested == []  # all was tested


def test_a_winner_at_a_scale_that_was_only_predicted_is_measured_on_selection(tmp_path: Path) -> None:
    store, tasks = run_on(tmp_path / "s", 3.5, 99, *TRIALS)
    winner = best(store.records.values())
    assert winner is not None
    assert winner.candidate is not None
    assert tasks.measured == [winner.candidate.scale]
    assert winner.candidate.metrics == {"gain": 3.25, "constraint": -0.3}
    assert winner.candidate in winner.scaled


def test_further_trials_make_a_second_order(tmp_path: Path) -> None:
    run_on(tmp_path / "s", 4.0, 99, *TRIALS)
    store, tasks = run_on(tmp_path / "s", 8.0, 99, trial(4, 8.0, 1.0))
    assert len(store.orders()) == 2
    assert tasks.tested[-1] == 8.0


def test_nothing_that_could_be_handed_over_is_tested(tmp_path: Path) -> None:
    store, tasks = run_on(tmp_path / "s", 4.0, 99, record(0), record(3, 9.0, 0.5))
    assert (store.orders()[0]["order"], tasks.tested, best(store.records.values())) == ([], [], None)
