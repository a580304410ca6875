"""The sum of the best trials' displacements as one more trial: from which trials, when, and in a whole sweep."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from adiabatic_ray import config, errors, storage
from adiabatic_ray.sweep import driver, soup
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import Candidate, TrialRecord, best, trained
from adiabatic_ray.trials.store import TrialStore
from tests import tracked
from tests.records import record
from tests.sweeps import MINIMAL, minimal


def trial(number: int, gain: float) -> TrialRecord:
    """A trial that is harmful as a whole, and gains something at scale 0.5."""
    return record(number, 2 * gain, 0.9, scaled=(Candidate(0.5, {"gain": gain, "constraint": -0.1}),))


def add(folder: Path, *records: TrialRecord, soups: bool = True, interrupt: bool = False) -> tuple[TrialStore, Any]:
    """Add a soup to a sweep in a folder, whose sums all gain 9, and what was given to the task."""
    sweep = minimal(search=dataclasses.replace(MINIMAL.search, soup=soups))
    store = TrialStore(folder) if folder.exists() else TrialStore.create(folder, sweep)
    for one in records:
        store.put(one)
        storage.write(store.folder.trial(one.number).displacement, "")
    interrupted, given = threading.Event(), []

    def work(_work: Any, _sweep: Any, _embedded: Any, parts: Any, number: int, _folder: Any) -> Iterator[TrialRecord]:
        given.append(parts)
        for k in range(2, len(parts) + 1):
            if interrupt:
                interrupted.set()
            numbers = "+".join(str(part.number) for part in parts[:k])
            yield dataclasses.replace(record(number, 9.0, -0.1), config={"soup": numbers})

    run: Any = SimpleNamespace(
        sweep=sweep,
        store=store,
        embedded=None,
        tasks=SimpleNamespace(run=work),
        console=Console(quiet=True),
        interrupted=interrupted,
    )
    soup.add(run)
    return store, given


TRIALS = (record(0), trial(1, 4.0), trial(2, 6.0), trial(3, -1.0), record(4, 9.0, 0.5), trial(5, 5.0))


def test_the_trials_that_gain_at_their_edges_are_added_up_from_best_to_worst(tmp_path: Path) -> None:
    store, given = add(tmp_path / "s", *TRIALS)
    assert [(part.number, part.scale, part.gain) for part in given[0]] == [(2, 0.5, 6.0), (5, 0.5, 5.0), (1, 0.5, 4.0)]
    assert store.records[6].config == {"soup": "2+5+1"}
    winner = best(store.records.values())
    assert winner is not None
    assert winner.number == 6
    assert [one.number for one in trained(store.records.values())] == [1, 2, 3, 4, 5]


def test_one_follows_the_last_trial(tmp_path: Path) -> None:
    add(tmp_path / "s", *TRIALS)
    store, given = add(tmp_path / "s")
    assert (given, max(store.records)) == ([], 6)
    store, given = add(tmp_path / "s", trial(7, 3.0))
    assert [part.number for part in given[0]] == [2, 5, 1, 7]  # soups are no parts
    assert store.records[8].is_soup


def test_none_is_made_unless_the_sweep_wants_it_and_there_is_something_to_add(tmp_path: Path) -> None:
    for name, records, soups in (("unwanted", TRIALS, False), ("alone", TRIALS[:2], True)):
        store, given = add(tmp_path / name, *records, soups=soups)
        assert given == []
        assert not any(one.is_soup for one in store.records.values())


def test_an_interrupted_one_begins_again(tmp_path: Path) -> None:
    store, _ = add(tmp_path / "s", *TRIALS, interrupt=True)
    assert max(store.records) == 5
    store, _ = add(tmp_path / "s")
    assert store.records[6].is_soup


def test_whole_displacements_are_not_added_up(load_sweep: Callable[..., config.Sweep]) -> None:
    with pytest.raises(errors.ConfigError, match=r"`search.soup` cannot be true when `search.candidates` is `whole`"):
        load_sweep({"search.soup": True, "search.candidates": "whole"})


@pytest.mark.slow
def test_a_sweep_with_one(load_sweep: Callable[..., config.Sweep]) -> None:
    """It is tested, reported, tracked and handed over as a trial is, and more trials may follow it."""
    changes = {
        "search.soup": True,
        "search.sampler": "random",
        "search.space.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
        "train.steps": 40,
        "budget.trials": 3,
    }
    sweep = load_sweep(changes)
    driver.run(sweep, Console(quiet=True))
    folder = StorageFolder.at(sweep.storage).sweep(sweep.name)
    store = TrialStore(folder.path)
    made = store.records[4]
    assert made.is_soup
    assert made.state in ("complete", "stopped")
    if made.state == "complete":
        assert 4 in {rung["trial"] for rung in store.orders()[-1]["order"]}
        assert made.edge is not None
        assert made.edge.gain > max(one.edge.gain for one in trained(store.records.values()) if one.edge)
    assert f">{made.config['soup']}<" in folder.report.read_text()
    run = tracked.runs(sweep)["4"]
    assert run.data.params == {"soup": str(made.config["soup"])}
    assert run.info.run_name == f"4: soup {made.config['soup']}"
    study = optuna.load_study(
        study_name=sweep.name,
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder.journal))),
    )
    assert len(study.trials) == 3

    driver.run(load_sweep(changes | {"budget.trials": 5}), Console(quiet=True))
    store = TrialStore(folder.path)
    assert [number for number, one in sorted(store.records.items()) if one.is_soup] == [4, 7]
    assert len(trained(store.records.values())) == 5
