"""The best trial is never infeasible, and what a trial can hand over is what was measured."""

from __future__ import annotations

import dataclasses
import statistics

import pytest

from adiabatic_ray.trials.record import (
    FAILED_CONSTRAINT,
    Candidate,
    Confirmation,
    Evaluation,
    ProfilePoint,
    State,
    TrialRecord,
    best,
    contenders,
    ranked,
    tuned,
)
from tests.records import record


def test_best_is_the_feasible_trial_with_the_largest_gain() -> None:
    records = [
        record(1, gain=2.0),
        record(2, gain=9.0, constraint=0.01),  # infeasible
        record(3, gain=5.0, state="stopped"),
        record(4, gain=3.0),
        record(5, gain=8.0, state="running"),
        record(6, state="crashed", points=()),
        record(0, gain=99.0),  # the untouched encoder is no candidate
    ]
    assert best(records) == records[3]
    assert [one.number for one in ranked(records)] == [0, 4, 1, 3, 5, 2, 6]
    assert [one.number for one in tuned(records)] == [1, 2, 3, 4, 5, 6]
    assert best([one for one in records if not one.feasible]) is None
    assert best([records[-1]]) is None


def test_a_trial_that_stayed_feasible_on_confirmation_goes_first() -> None:
    lucky = record(1, gain=5.0, confirmations=(Confirmation(1.0, 5.0, {}, "it harms"),))
    sound = record(2, gain=3.0, confirmations=(Confirmation(1.0, 3.0, {}),))
    unconfirmed = record(3, gain=4.0)
    assert best([lucky, sound, unconfirmed]) == sound
    assert best([lucky, unconfirmed]) is None  # neither a refuted trial nor an unconfirmed one is the best
    assert best([unconfirmed]) == unconfirmed
    assert lucky.confirmed is False
    assert unconfirmed.confirmed is None


def test_what_gains_nothing_is_not_handed_over() -> None:
    records = [record(0, gain=0.0), record(1, gain=-2.0), record(2, gain=0.0)]
    assert best(records) is None  # the untouched encoder is feasible, and better
    assert best([*records, record(3, gain=0.1)]) == record(3, gain=0.1)


def test_the_candidate_is_the_largest_feasible_part() -> None:
    scaled = tuple(
        Candidate(scale, {"gain": 10 * scale, "constraint": constraint}, f"pair {scale}")
        for scale, constraint in ((0.75, 0.1), (0.25, -0.8), (0.5, 0.0))
    )
    infeasible = record(1, gain=10.0, constraint=0.4, scaled=scaled)
    assert infeasible.candidate == scaled[2]
    assert infeasible.candidate.gain == 5.0
    assert record(2, gain=10.0, constraint=-0.1, scaled=scaled).candidate == Candidate(
        1.0, {"gain": 10.0, "constraint": -0.1}, "neutral/de/en"
    )
    assert record(3, constraint=0.4).candidate is None
    assert record(4, scaled=scaled, state="stopped").candidate is None  # only a complete trial has one
    assert best([infeasible, record(2, gain=4.0)]) == infeasible
    assert [one.number for one in contenders([record(2, gain=4.0), infeasible])] == [1, 2]


def test_the_edge_is_the_feasible_candidate_with_the_largest_gain() -> None:
    """A displacement that went too far gains more when it is scaled down."""
    scaled = tuple(
        Candidate(scale, {"gain": gain, "constraint": constraint})
        for scale, gain, constraint in ((0.25, 4.0, -0.5), (0.5, 6.0, -0.2), (0.7, 6.0, -0.1), (0.8, 9.0, 0.1))
    )
    one = record(1, gain=5.0, constraint=-0.1, scaled=scaled)
    assert one.edge == scaled[1]
    assert one.gain_at_edge == 6.0
    assert record(2, constraint=0.4).gain_at_edge == 0.0  # the untouched encoder, at scale 0
    profile = (ProfilePoint(0.25, 3.0, -0.4, 2.0), ProfilePoint(0.5, 5.0, -0.2, 1.0), ProfilePoint(0.75, 7.0, 0.1, 1.0))
    assert record(2, constraint=0.4, profile=profile).gain_at_edge == 5.0  # all that was measured is infeasible
    assert record(2, constraint=0.4, profile=profile[2:]).gain_at_edge == 0.0
    running = (Evaluation(4, 1.0, {"gain": 9.0, "constraint": 2.0, "edge/gain": 3.5}),)
    assert record(3, state="running", points=running).gain_at_edge == 3.5


def test_the_boldest_candidate_that_passed_is_handed_over() -> None:
    profile = (ProfilePoint(0.3, 3.0, -0.4, 2.0), ProfilePoint(0.5, 5.0, -0.2, 1.0))
    edge = Candidate(0.5, {"gain": 5.0, "constraint": -0.2})
    passed, failed = Confirmation(0.3, 3.0, {"gain": 2.5}), Confirmation(0.5, 5.0, {"gain": 4.0}, "de may be worse")
    one = record(1, constraint=3.0, scaled=(edge,), profile=profile, confirmations=(passed, failed))
    assert one.edge == edge
    assert one.candidate == Candidate(0.3, {"gain": 3.0, "constraint": -0.4})  # as predicted
    assert (one.confirmed, one.confirmation) == (True, {"gain": 2.5})
    measured = Candidate(0.3, {"gain": 3.1, "constraint": -0.3}, "neutral/de/en")
    assert dataclasses.replace(one, scaled=(measured, edge)).candidate == measured
    refuted = record(1, constraint=3.0, scaled=(edge,), confirmations=(failed,))
    assert (refuted.candidate, refuted.confirmed, refuted.confirmation) == (edge, False, {"gain": 4.0})


@pytest.mark.parametrize("state", ["diverged", "out_of_memory", "crashed"])
def test_a_failed_trial_is_infeasible_whatever_was_measured(state: State) -> None:
    failed = record(1, gain=5.0, constraint=-1.0, state=state)
    assert failed.failed
    assert not failed.feasible
    assert failed.constraint == FAILED_CONSTRAINT
    assert failed.gain == 5.0
    assert failed.candidate is None


def test_a_trial_without_an_evaluation_has_no_numbers() -> None:
    started = TrialRecord(1, {})
    assert (started.metrics, started.gain, started.constraint, started.feasible) == ({}, None, None, False)


def test_the_last_evaluation_counts() -> None:
    points = tuple(Evaluation(step, 1.0, {"gain": float(step), "constraint": -0.5}) for step in (4, 8))
    assert record(1, points=points).gain == 8.0


def repeats(*outcomes: tuple[float, float]) -> tuple[dict[str, float], ...]:
    return tuple({"gain": gain, "constraint": constraint} for gain, constraint in outcomes)


def test_repeats_decide_over_the_best() -> None:
    lucky = record(1, gain=9.0, repeats=repeats((9.0, -0.1), (8.0, 0.2), (7.0, -0.1)))
    steady = record(2, gain=3.0, repeats=repeats((3.0, -0.4), (2.0, -0.3), (2.5, -0.2)))
    unrepeated = record(3, gain=5.0, confirmations=(Confirmation(1.0, 5.0, {}),))
    assert best([lucky, steady, unrepeated]) == steady
    assert (lucky.num_feasible_repeats, steady.num_feasible_repeats) == (2, 3)
    assert lucky.repeat_score == (pytest.approx(2 / 3), pytest.approx(8.0))
    assert lucky.gain_std == pytest.approx(statistics.stdev([9.0, 8.0, 7.0]))
    assert unrepeated.repeat_score == (0.0, 0.0)
    assert record(4, repeats=repeats((1.0, -0.1))).gain_std is None
    same_share = record(5, gain=1.0, repeats=repeats((4.0, -0.4), (4.0, -0.3)))
    assert best([steady, same_share]) == same_share  # among equally feasible ones the mean gain decides


def test_a_refutation_says_why() -> None:
    assert record(1).refutation == ""
    refuted = record(1, confirmations=(Confirmation(1.0, 3.0, {}, "de may be 4% worse"),))
    assert (refuted.refutation, refuted.confirmed) == ("de may be 4% worse", False)
    half = record(1, repeats=repeats((1.0, -0.1), (1.0, 0.1)))
    assert half.refutation == "of its 2 repetitions with other seeds only 1 stayed feasible there"
    assert half.confirmed is False
    most = record(1, repeats=repeats((1.0, -0.1), (1.0, 0.1), (1.0, 0.0)))
    assert (most.refutation, most.confirmed) == ("", True)


def test_a_trial_ends_with_its_time() -> None:
    ended = record(1, state="running", finished=None).ended("crashed", "why")
    assert (ended.state, ended.reason) == ("crashed", "why")
    assert ended.finished is not None
