"""What came of a sweep, as values: counts, the winner's results, and what is nearest where nothing won."""

from __future__ import annotations

import dataclasses

from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.report.evidence import Evidence
from adiabatic_ray.report.summary import Counts, Estimate, Summary, summarise
from adiabatic_ray.trials.record import TrialRecord
from tests.records import checked
from tests.report.sweeps import PILOT, SIX_TRIALS, part, trial

NOTHING = Evidence({}, {}, {}, [], [])
RESCUED = trial(6, 12.0, 0.8, scaled=(part(0.5, 7.0, -1.5, -0.1),))


def of(*records: TrialRecord, evidence: Evidence = NOTHING) -> Summary:
    return summarise(PILOT, records, evidence)


def test_every_trial_is_counted_once() -> None:
    more = (RESCUED, trial(7, 5.0, 0.5), trial(8, 1.0, -0.5, state="running"))
    counts = of(*SIX_TRIALS, *more).counts
    assert counts == Counts(trials=8, feasible=3, scaled=1, infeasible=1, stopped=1, failed=1, running=1)
    ways = dataclasses.asdict(counts)
    assert ways.pop("trials") == sum(ways.values())


def test_the_results_of_the_winner_are_those_of_its_candidate() -> None:
    measured = {"improvement/xnli": 0.5, "improvement/msmarco": 6.5, "improvement/msmarco/de": 1.0}
    selected = measured | {"gain": 6.5, "worst_language": -0.25, "constraint": -0.4, "constraint/worst_z": 1.5}
    candidate = dataclasses.replace(part(0.5, 0, 0, 0), metrics=selected | {"p_value": 0.01, "constraint/upper": 0.75})
    confirmation = {"gain": 5.0, "p_value": 0.03, "constraint": -0.2, "improvement/msmarco": 5.0}
    winner = trial(6, 12.0, 0.8, scaled=(candidate,), confirmations=checked(confirmation, 0.5))
    evidence = dataclasses.replace(NOTHING, selection={"msmarco": Interval(6.5, 4.0, 9.0)})

    summary = of(*SIX_TRIALS, winner, evidence=evidence)
    assert summary.winner == winner
    assert summary.selection is not None
    assert summary.confirmation is not None
    # In the order of the sweep's sets, without the set that was not compared.
    assert summary.selection.improvements == {
        "msmarco": Estimate(6.5, Interval(6.5, 4.0, 9.0)),
        "xnli": Estimate(0.5, None),
    }
    assert list(summary.selection.improvements) == ["msmarco", "xnli"]
    assert (summary.selection.p_value, summary.selection.worst_language) == (0.01, -0.25)
    assert (summary.selection.worst_z, summary.selection.upper, summary.selection.constraint) == (1.5, 0.75, -0.4)
    assert summary.confirmation.improvements == {"msmarco": Estimate(5.0, None)}
    assert (summary.confirmation.p_value, summary.confirmation.worst_z) == (0.03, None)


def test_refuted_trials_are_listed_from_best_to_worst() -> None:
    bad = {"gain": 1.0, "p_value": 0.5, "constraint": 0.5}
    refuted = [dataclasses.replace(record, confirmations=checked(bad)) for record in SIX_TRIALS[1:4]]
    summary = of(SIX_TRIALS[0], *refuted)
    assert summary.winner is None
    assert [record.number for record in summary.refuted] == [3, 2, 1]
    assert (summary.selection, summary.confirmation) == (None, None)


def test_the_nearest_trial_has_the_largest_gain_or_else_the_smallest_constraint() -> None:
    harmful, worse = trial(1, 9.0, 0.5), trial(2, 9.5, 2.0)
    useless = trial(3, -4.0, -0.5)
    assert of(SIX_TRIALS[0], worse, harmful).nearest == harmful
    assert of(SIX_TRIALS[0], worse, harmful, useless).nearest == useless
    assert of(SIX_TRIALS[0], worse, harmful, useless).winner is None


def test_failed_and_running_trials_are_not_the_nearest() -> None:
    unmeasured = trial(3, 0, 0, points=(), state="stopped")
    crashed, running = trial(1, 9.0, 0.5, state="crashed"), trial(2, 9.0, 0.5, state="running")
    assert of(SIX_TRIALS[0], crashed, running, unmeasured).nearest is None
