"""The search on a problem whose constrained optimum is known, and what it is told."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from adiabatic_ray import config
from adiabatic_ray.search import searcher
from adiabatic_ray.search.searcher import ConstrainedSearch
from adiabatic_ray.trials.record import FAILED_CONSTRAINT, Evaluation, TrialRecord

SPACE: dict[str, Any] = {
    "learning_rate": config.Range(low=1e-8, high=1e-4, log=True),
    "batch_size": [8, 14, 32],
    "margin": config.Range(low=0.02, high=0.3),
    "freeze": ["embeddings", "embeddings+output.dense.weight", "none"],
}
# The learning rate at which each mask starts to harm, as the power of ten.
EDGES = {"none": -7.0, "embeddings": -6.5, "embeddings+output.dense.weight": -6.0}
TRIALS = 60


def problem(choice: dict[str, Any]) -> tuple[float, float]:
    """Gain and constraint in the shape of a real sweep: both grow with the rate, and the edge is where the gain is."""
    rate = math.log10(choice["learning_rate"])
    edge = EDGES[choice["freeze"]] + 0.1 * math.log10(choice["batch_size"] / 14)
    gain = 10 * (1 - math.exp(-(rate + 8) / 1.5)) * (1 - 0.1 * ((choice["margin"] - 0.1) / 0.1) ** 2)
    return gain, 2 * (rate - edge)


OPTIMUM = problem(
    {
        "learning_rate": 10 ** (-6.0 + 0.1 * math.log10(32 / 14)),
        "batch_size": 32,
        "margin": 0.1,
        "freeze": "embeddings+output.dense.weight",
    }
)[0]


def settings(sampler: Any = "tpe", chosen: dict[str, Any] | None = None) -> config.Search:
    return config.Search(objective="msmarco", space=chosen or SPACE, sampler=sampler)


def ended(number: int, choice: dict[str, Any], gain: float, constraint: float, state: Any = "complete") -> TrialRecord:
    points = (Evaluation(1, 0.0, {"gain": gain, "constraint": constraint}),)
    return TrialRecord(number, choice, state, points=points)


def best_feasible(sampler: str, seed: int, trials: int = TRIALS) -> float:
    search = ConstrainedSearch(settings(sampler), seed, startup=10)
    best = 0.0
    for number in range(1, trials + 1):
        choice = search.propose(number)
        assert choice is not None
        gain, constraint = problem(choice)
        if constraint <= 0:
            best = max(best, gain)
        search.tell(ended(number, choice, gain, constraint))
    return best


def test_tpe_finds_the_constrained_optimum_and_beats_chance() -> None:
    gains = [best_feasible("tpe", seed) / OPTIMUM for seed in range(10)]
    chance = [best_feasible("random", seed) / OPTIMUM for seed in range(10)]
    assert sum(gain >= 0.95 for gain in gains) >= 8, gains
    assert sum(gains) > sum(chance) + 0.3, (gains, chance)


@pytest.mark.slow
def test_gp_finds_it_too() -> None:
    gains = [best_feasible("gp", seed, trials=30) / OPTIMUM for seed in range(5)]
    assert sum(gain >= 0.95 for gain in gains) >= 4, gains


def told(record_state: str, sampler: str = "tpe") -> optuna.trial.FrozenTrial:
    search = ConstrainedSearch(settings(sampler), seed=0, startup=10)
    choice = search.propose(1)
    assert choice is not None
    if record_state in ("crashed", "diverged", "out_of_memory"):
        record = TrialRecord(1, choice, record_state)  # type: ignore[arg-type]
    else:
        record = ended(1, choice, gain=7.0, constraint=2.0, state=record_state)
    search.tell(record)
    return search.study.trials[0]


def test_a_finished_trial_is_complete_with_its_constraint() -> None:
    trial = told("complete")
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 7.0)
    assert trial.constraints == {searcher.CONSTRAINT: math.asinh(2.0)}


def test_a_stopped_trial_is_pruned_with_the_constraint_of_its_last_point() -> None:
    trial = told("stopped")
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {0: 7.0}
    assert trial.constraints == {searcher.CONSTRAINT: math.asinh(2.0)}


@pytest.mark.parametrize("state", ["crashed", "diverged", "out_of_memory"])
@pytest.mark.parametrize(("sampler", "told_as"), [("tpe", TrialState.PRUNED), ("gp", TrialState.COMPLETE)])
def test_a_failed_trial_is_told_as_far_from_feasible(state: str, sampler: str, told_as: TrialState) -> None:
    trial = told(state, sampler)
    assert trial.state == told_as
    assert trial.constraints[searcher.CONSTRAINT] == math.asinh(FAILED_CONSTRAINT)


def test_optuna_never_calls_an_infeasible_trial_the_best() -> None:
    search = ConstrainedSearch(settings(), seed=0, startup=10)
    for number, (gain, constraint) in enumerate([(1.0, -0.1), (9.0, 0.5), (2.0, -0.2)], start=1):
        choice = search.propose(number)
        assert choice is not None
        search.tell(ended(number, choice, gain, constraint))
    assert search.study.best_trial.value == 2.0


def test_failing_regions_are_left() -> None:
    """Large batches run out of memory: after a while they are proposed less than half as often as by chance."""
    search = ConstrainedSearch(settings(), seed=0, startup=10)
    failed = []
    for number in range(1, 61):
        choice = search.propose(number)
        assert choice is not None
        failed.append(choice["batch_size"] == 32)
        gain, constraint = problem(choice)
        record = TrialRecord(number, choice, "out_of_memory") if failed[-1] else ended(number, choice, gain, constraint)
        search.tell(record)
    assert sum(failed[30:]) < 5  # chance would make 10 of 30


FINITE: dict[str, Any] = {"batch_size": [8, 14], "freeze": ["none", "embeddings", "layer.0"]}


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_a_finite_space_is_tried_once_each_and_then_over(sampler: str) -> None:
    search = ConstrainedSearch(settings(sampler, FINITE), seed=0, startup=2)
    proposed = []
    for number in range(1, 7):
        choice = search.propose(number)
        assert choice is not None
        proposed.append(tuple(choice.items()))
        search.tell(ended(number, choice, 1.0, -1.0))
    assert len(set(proposed)) == 6
    assert search.propose(7) is None


def test_a_sampler_that_repeats_itself_is_not_listened_to() -> None:
    """A Gaussian process settles on the corner of a space; the sweep goes on with new configurations all the same."""
    chosen = {"margin": config.Range(low=0.1, high=0.2)}
    search = ConstrainedSearch(settings("gp", chosen), seed=0, startup=3)
    seen = []
    for number in range(1, 15):
        choice = search.propose(number)
        assert choice is not None
        seen.append(choice["margin"])
        search.tell(ended(number, choice, float(choice["margin"]), -1.0))
    assert len(set(seen)) == len(seen)


def sequence(seed: int, sampler: str = "tpe", count: int = 16) -> list[dict[str, Any]]:
    search = ConstrainedSearch(settings(sampler), seed, startup=4)
    choices = []
    for number in range(1, count + 1):
        choice = search.propose(number)
        assert choice is not None
        choices.append(choice)
        search.tell(ended(number, choice, *problem(choice)))
    return choices


def test_the_same_seed_gives_the_same_sequence() -> None:
    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("broken_after", [1, 5, 11])
def test_a_resumed_search_proposes_what_an_unbroken_one_would(sampler: str, broken_after: int) -> None:
    unbroken = sequence(5, sampler)
    search = ConstrainedSearch(settings(sampler), 5, startup=4)
    for number, choice in enumerate(unbroken[:broken_after], start=1):
        search.resume(ended(number, choice, *problem(choice)))
    # The trial that was under way is known by its configuration, and ends now.
    under_way = unbroken[broken_after]
    search.resume(TrialRecord(broken_after + 1, under_way, "running"))
    search.tell(ended(broken_after + 1, under_way, *problem(under_way)))
    for number in range(broken_after + 2, len(unbroken) + 1):
        choice = search.propose(number)
        assert choice == unbroken[number - 1]
        search.tell(ended(number, choice, *problem(choice)))


def test_earlier_configurations_are_not_proposed_again() -> None:
    search = ConstrainedSearch(settings(chosen=FINITE), 0, startup=2)
    earlier = [{"batch_size": 8, "freeze": mask} for mask in FINITE["freeze"]]
    for number, choice in enumerate(earlier, start=1):
        search.resume(ended(number, choice, 1.0, -1.0))
    later = [search.propose(number) for number in (4, 5, 6)]
    assert all(choice is not None and choice["batch_size"] == 14 for choice in later)
    assert search.propose(7) is None


def test_grid_goes_through_all_combinations_in_order() -> None:
    search = searcher.create(config.Search(objective="m", method="grid", space=FINITE), seed=0, trials=None)
    proposed = [search.propose(number) for number in range(1, 8)]
    assert proposed[:4] == [
        {"batch_size": 8, "freeze": "none"},
        {"batch_size": 8, "freeze": "embeddings"},
        {"batch_size": 8, "freeze": "layer.0"},
        {"batch_size": 14, "freeze": "none"},
    ]
    assert proposed[6] is None
