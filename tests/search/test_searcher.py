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
from adiabatic_ray.trials.record import FAILED_CONSTRAINT, GAIN_AT_EDGE, Candidate, Evaluation, TrialRecord
from tests import search_problem
from tests.search_problem import OPTIMUM, SPACE, outcome, record, trained

TRIALS = 60


def settings(sampler: Any = "tpe", chosen: dict[str, Any] | None = None, candidates: Any = "whole") -> config.Search:
    return search_problem.settings(sampler=sampler, space=chosen or SPACE, candidates=candidates)


def best_feasible(sampler: str, seed: int, trials: int = TRIALS) -> float:
    """The best whole displacement."""
    search = ConstrainedSearch(settings(sampler), seed, startup=10)
    best = 0.0
    for number in range(1, trials + 1):
        choice = search.propose(number)
        assert choice is not None
        gain, constraint = outcome(choice)
        if constraint <= 0:
            best = max(best, gain)
        search.tell(record(number, choice, gain, constraint))
    return best


def test_tpe_finds_the_constrained_optimum_and_beats_chance() -> None:
    gains = [best_feasible("tpe", seed) / OPTIMUM for seed in range(10)]
    chance = [best_feasible("random", seed) / OPTIMUM for seed in range(10)]
    assert sum(gain >= 0.95 for gain in gains) >= 8, gains
    assert sum(gains) > sum(chance) + 0.3, (gains, chance)


def best_edge(seed: int, trials: int) -> float:
    search = searcher.create(settings("auto", candidates="edge"), seed, trials=100)
    best = 0.0
    for number in range(1, trials + 1):
        choice = search.propose(number)
        assert choice is not None
        made = trained(number, choice)
        assert made.gain_at_edge is not None
        best = max(best, made.gain_at_edge)
        search.tell(made)
    return best


def test_edges_are_found_within_a_few_trials() -> None:
    """Far fewer than with whole displacements, whose constraint the search must learn as well."""
    gains = sorted(best_edge(seed, trials=16) / OPTIMUM for seed in range(5))
    assert gains[2] >= 0.95, gains


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_the_first_trials_are_spread_over_every_hyper_parameter(sampler: str) -> None:
    """Three trials have each batch size and each mask once, and a learning rate in each third of the range."""
    for seed in range(10):
        search = ConstrainedSearch(settings(sampler, candidates="edge"), seed, startup=3)
        choices = [search.propose(number) for number in (1, 2, 3)]
        columns = {key: [choice[key] for choice in choices if choice] for key in SPACE}
        assert set(columns["batch_size"]) == {8, 14, 32}
        assert set(columns["freeze"]) == set(SPACE["freeze"])
        assert {int((math.log10(float(rate)) + 8) / 4 * 3) for rate in columns["learning_rate"]} == {0, 1, 2}
        assert {int((float(margin) - 0.02) / 0.28 * 3) for margin in columns["margin"]} == {0, 1, 2}


def test_the_first_trials_are_another_spread_with_another_seed() -> None:
    first = {str(ConstrainedSearch(settings("gp"), seed, startup=3).propose(1)) for seed in range(5)}
    assert len(first) == 5


def test_the_process_goes_on_where_a_list_of_numbers_rises() -> None:
    """The larger the batch was, the more was gained; of those that are left the largest is proposed next.

    The list is not in order. To a process that saw no order in it, the two left would be alike.
    """
    chosen = {"batch_size": [64, 8, 48, 16, 12], "margin": [0.1]}
    proposed = []
    for seed in range(5):
        search = ConstrainedSearch(settings("gp", chosen), seed, startup=1)
        for number, batch_size in enumerate((8, 16, 48), start=1):
            search.resume(record(number, {"batch_size": batch_size, "margin": 0.1}, float(number), -1.0))
        choice = search.propose(4)
        assert choice is not None
        proposed.append(choice["batch_size"])
    assert proposed == [64] * 5


@pytest.mark.slow
def test_gp_finds_it_too() -> None:
    gains = [best_feasible("gp", seed, trials=30) / OPTIMUM for seed in range(5)]
    assert sum(gain >= 0.95 for gain in gains) >= 4, gains


def told(record_state: str, sampler: str = "tpe") -> optuna.trial.FrozenTrial:
    search = ConstrainedSearch(settings(sampler), seed=0, startup=10)
    choice = search.propose(1)
    assert choice is not None
    if record_state in ("crashed", "diverged", "out_of_memory"):
        search.tell(TrialRecord(1, choice, record_state))  # type: ignore[arg-type]
    else:
        search.tell(record(1, choice, gain=7.0, constraint=2.0, state=record_state))
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


@pytest.mark.parametrize(("sampler", "told_as"), [("tpe", TrialState.PRUNED), ("gp", TrialState.COMPLETE)])
def test_of_a_sweep_over_edges_the_gain_at_the_edge_is_told(sampler: str, told_as: TrialState) -> None:
    """A trial is feasible there, whatever its whole displacement does, and one that was stopped early as well."""
    search = ConstrainedSearch(settings(sampler, candidates="edge"), seed=0, startup=10)
    first, second, third = (search.propose(number) for number in (1, 2, 3))
    assert first is not None
    assert second is not None
    assert third is not None
    edge = Candidate(0.3, {"gain": 4.0, "constraint": -0.1})
    search.tell(record(1, first, gain=9.0, constraint=5.0, scaled=(edge,)))
    search.tell(record(2, second, gain=9.0, constraint=5.0))  # no scale is feasible but 0
    points = tuple(Evaluation(n, 0.0, {"gain": 9.0, "constraint": 5.0, GAIN_AT_EDGE: float(n)}) for n in (1, 2))
    search.tell(TrialRecord(3, third, "stopped", points=points))
    trials = search.study.trials
    assert [trial.state for trial in trials[:2]] == [TrialState.COMPLETE] * 2
    assert [trial.value for trial in trials[:2]] == [4.0, 0.0]
    assert all(trial.constraints[searcher.CONSTRAINT] < 0 for trial in trials)
    assert trials[2].state == told_as
    assert trials[2].value == 2.0 if told_as == TrialState.COMPLETE else trials[2].intermediate_values == {2: 2.0}


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
        search.tell(record(number, choice, gain, constraint))
    assert search.study.best_trial.value == 2.0


def test_failing_regions_are_left() -> None:
    """Large batches run out of memory: after a while they are proposed less than half as often as by chance."""
    search = ConstrainedSearch(settings(), seed=0, startup=10)
    failed = []
    for number in range(1, 61):
        choice = search.propose(number)
        assert choice is not None
        failed.append(choice["batch_size"] == 32)
        gain, constraint = outcome(choice)
        measured = record(number, choice, gain, constraint)
        search.tell(TrialRecord(number, choice, "out_of_memory") if failed[-1] else measured)
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
        search.tell(record(number, choice, 1.0, -1.0))
    assert len(set(proposed)) == 6
    assert search.propose(7) is None


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_all_steps_of_a_range_are_tried_and_read_again(sampler: str) -> None:
    """In floating point 0.1 + 2 * 0.1 is beyond 0.3."""
    chosen = {"margin": config.Range(low=0.1, high=0.3, step=0.1)}
    search, resumed = (ConstrainedSearch(settings(sampler, chosen), seed=0, startup=3) for _ in range(2))
    proposed = []
    for number in (1, 2, 3):
        choice = search.propose(number)
        assert choice is not None
        proposed.append(float(choice["margin"]))
        search.tell(record(number, choice, 1.0, -1.0))
        resumed.resume(record(number, choice, 1.0, -1.0))
    assert sorted(proposed) == pytest.approx([0.1, 0.2, 0.3])
    assert max(proposed) <= 0.3
    assert search.propose(4) is None
    assert resumed.propose(4) is None


# Trials of a sweep in the pocket world, the best one in a corner of the space: learning rate, batch size, margin,
# weights that are frozen, gain at the edge.
CORNERED = [
    (1.92e-4, 14, 0.03, "both", 25.0), (1.8e-4, 14, 0.021, "one", 38.2), (6.06e-4, 8, 0.145, "both", 7.8),
    (1.37e-4, 28, 0.064, "one", 22.1), (9.45e-5, 14, 0.114, "both", 24.5), (1.32e-5, 14, 0.02, "one", 22.1),
    (1e-3, 14, 0.113, "one", 28.9), (4.58e-4, 14, 0.02, "one", 31.4), (1.48e-4, 14, 0.08, "one", 24.0),
    (1.1e-4, 14, 0.02, "one", 26.5), (1.29e-4, 8, 0.02, "one", 21.1), (1e-5, 28, 0.02, "both", 16.2),
    (1e-3, 14, 0.02, "one", 49.5), (1e-3, 28, 0.02, "one", 62.7), (1e-3, 28, 0.02, "both", 22.0),
    (1e-3, 8, 0.02, "one", 22.0),
]  # fmt: skip


def test_the_process_goes_on_beside_the_best_trial_in_a_corner() -> None:
    """It wants to measure that one again, which would teach it nothing, and is not given up for chance."""
    chosen = {
        "learning_rate": config.Range(low=1e-5, high=1e-3, log=True),
        "batch_size": [8, 14, 28],
        "margin": config.Range(low=0.02, high=0.2, log=True),
        "freeze": ["one", "both"],
    }
    beside = 0
    for seed in range(5):
        search = ConstrainedSearch(settings("gp", chosen), seed, startup=4)
        for number, (*choice, gain) in enumerate(CORNERED, start=1):
            search.resume(record(number, dict(zip(chosen, choice, strict=True)), gain, -1.0))
        proposed = search.propose(len(CORNERED) + 1)
        assert proposed is not None
        beside += proposed["learning_rate"] > 5e-4 and (proposed["batch_size"], proposed["freeze"]) == (28, "one")
    assert beside >= 4  # by chance 1 in 40


def test_numbers_that_agree_in_six_digits_are_one_configuration() -> None:
    """Where a process wants what it knows, it finds its neighbour in floating point."""
    search = ConstrainedSearch(settings("gp", {"margin": [0.2, 0.19999999999999998, 0.1]}), seed=0, startup=2)
    proposed = [search.propose(number) for number in (1, 2, 3)]
    assert proposed[2] is None
    assert {round(float(choice["margin"]), 6) for choice in proposed if choice} == {0.1, 0.2}


def test_a_sampler_that_repeats_itself_is_not_listened_to() -> None:
    """A Gaussian process settles on the corner of a space; the sweep goes on with new configurations all the same."""
    chosen = {"margin": config.Range(low=0.1, high=0.2)}
    search = ConstrainedSearch(settings("gp", chosen), seed=0, startup=3)
    seen = []
    for number in range(1, 15):
        choice = search.propose(number)
        assert choice is not None
        seen.append(choice["margin"])
        search.tell(record(number, choice, float(choice["margin"]), -1.0))
    assert len(set(seen)) == len(seen)


def sequence(seed: int, sampler: str = "tpe", count: int = 16) -> list[dict[str, Any]]:
    search = ConstrainedSearch(settings(sampler), seed, startup=4)
    choices = []
    for number in range(1, count + 1):
        choice = search.propose(number)
        assert choice is not None
        choices.append(choice)
        search.tell(record(number, choice, *outcome(choice)))
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
        search.resume(record(number, choice, *outcome(choice)))
    # The trial that was under way is known by its configuration, and ends now.
    under_way = unbroken[broken_after]
    search.resume(TrialRecord(broken_after + 1, under_way, "running"))
    search.tell(record(broken_after + 1, under_way, *outcome(under_way)))
    for number in range(broken_after + 2, len(unbroken) + 1):
        choice = search.propose(number)
        assert choice == unbroken[number - 1]
        search.tell(record(number, choice, *outcome(choice)))


def test_earlier_configurations_are_not_proposed_again() -> None:
    search = ConstrainedSearch(settings(chosen=FINITE), 0, startup=2)
    earlier = [{"batch_size": 8, "freeze": mask} for mask in FINITE["freeze"]]
    for number, choice in enumerate(earlier, start=1):
        search.resume(record(number, choice, 1.0, -1.0))
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
