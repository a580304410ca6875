"""Importances of hyper-parameters whose effect is known."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from adiabatic_ray import config
from adiabatic_ray.search.importance import ENOUGH_TRIALS, importances
from adiabatic_ray.trials.record import Evaluation, TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests.records import record
from tests.sweeps import minimal

SPACE: dict[str, config.Range | list[config.Scalar]] = {
    "learning_rate": config.Range(low=1e-8, high=1e-4, log=True),
    "margin": config.Range(low=0.01, high=1.0),
}


def trial(number: int, rng: random.Random) -> TrialRecord:
    """The gain follows the learning rate alone, and the constraint the margin alone."""
    power, margin = rng.uniform(-8, -4), rng.uniform(0.01, 1.0)
    points = (Evaluation(8, 1.0, {"gain": power, "constraint": margin - 0.5}),)
    return TrialRecord(number, {"learning_rate": 10**power, "margin": margin}, "complete", points=points)


def store_of(folder: Path, space: dict[str, config.Range | list[config.Scalar]] = SPACE) -> TrialStore:
    search = config.Search(objective="questions", space=space)
    store = TrialStore.create(folder, minimal(search=search, budget=config.Budget(trials=99)))
    store.put(TrialRecord(0, {}, "complete", points=record(0).points))  # the untouched encoder has no configuration
    return store


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    store = store_of(tmp_path)
    rng = random.Random(0)
    for number in range(1, 61):
        store.put(trial(number, rng))
    return store


def test_what_an_outcome_depends_on_has_the_larger_share(store: TrialStore) -> None:
    shares = importances(store)
    assert set(shares) == {"gain", "constraint"}
    for target, cause in (("gain", "learning_rate"), ("constraint", "margin")):
        assert sum(shares[target].values()) == pytest.approx(1.0)
        assert shares[target].keys() == SPACE.keys()
        assert shares[target][cause] > 0.8, shares


def test_trials_that_tell_nothing_change_nothing(store: TrialStore) -> None:
    before = importances(store)
    store.put(TrialRecord(61, {"learning_rate": 1e-5, "margin": 0.5}, "crashed"))  # it measured nothing
    store.put(record(62, gain=99.0))  # of an earlier space
    store.put(record(63, config={"learning_rate": 1e-5, "margin": 0.5}, state="running", gain=99.0))
    assert importances(store) == before


def test_few_trials_tell_nothing(tmp_path: Path) -> None:
    store, rng = store_of(tmp_path), random.Random(0)
    for number in range(1, ENOUGH_TRIALS):
        store.put(trial(number, rng))
    assert importances(store) == {}
    store.put(trial(ENOUGH_TRIALS, rng))
    assert importances(store) != {}


def test_one_hyper_parameter_has_no_share(tmp_path: Path) -> None:
    store = store_of(tmp_path, {"margin": SPACE["margin"]})
    for number in range(1, 61):
        store.put(record(number, gain=float(number), config={"margin": number / 100}))
    assert importances(store) == {}
