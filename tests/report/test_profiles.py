"""Profiles over the scale: read back from the figure's axes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from adiabatic_ray.report import page, profiles
from adiabatic_ray.trials.record import Candidate, ProfilePoint, TrialRecord
from tests.records import record
from tests.report.axes import lines, scattered
from tests.report.pages import NOTHING, text_of
from tests.report.sweeps import in_folder

PREDICTIONS = '<details id="predictions"'


def trial(number: int, gain: float) -> TrialRecord:
    """A trial that harms as a whole, and is at its edge when halved."""
    edge = Candidate(0.5, {"gain": gain, "constraint": -0.1})
    profile = tuple(ProfilePoint(s, gain * s, 4 * s - 2, 1.0) for s in (0.25, 0.5, 1.0))
    return record(number, 2 * gain, 3.0, scaled=(edge,), profile=profile)


def test_what_was_predicted_what_was_measured_and_the_edge() -> None:
    best = trial(1, 8.0)
    gain, constraint = profiles.over_scale([best, trial(2, 6.0)], "msmarco", best).axes
    assert scattered(gain) == {
        "trial 1, measured": [(0.5, 8.0), (1.0, 16.0)],
        "trial 2, measured": [(0.5, 6.0), (1.0, 12.0)],
    }
    assert scattered(constraint)["trial 1, measured"] == [(0.5, -0.1), (1.0, 3.0)]
    assert lines(gain)["handed over: trial 1"] == [(0.5, 8.0)]
    assert lines(constraint)["handed over: trial 1"] == [(0.5, -0.1)]
    drawn = [line.get_xydata().tolist() for line in gain.lines]  # type: ignore[union-attr]
    assert [[0.25, 2.0], [0.5, 4.0], [1.0, 8.0]] in drawn
    assert constraint.get_xscale() == "log"
    assert (gain.get_ylabel(), constraint.get_ylabel()) == (
        "gain on msmarco (%)",
        "constraint\n(feasible at 0 or below)",
    )


def test_the_best_trials_that_have_a_profile_are_shown_and_what_is_handed_over() -> None:
    whole = record(9, 20.0)  # it has none
    trials = [trial(number, float(number)) for number in range(1, 8)]
    shown = profiles.profiled([whole, *trials], winner=None)
    assert [one.number for one in shown] == [7, 6, 5, 4]
    shown = profiles.profiled([whole, *trials], winner=trials[1])
    assert [one.number for one in shown] == [2, 7, 6, 5]
    assert profiles.profiled([whole], winner=None) == []


@pytest.mark.parametrize("winner", [None, record(9, 20.0)])
def test_nothing_handed_over(winner: TrialRecord | None) -> None:
    gain, _ = profiles.over_scale([trial(1, 8.0)], "msmarco", winner).axes
    assert [label for label in lines(gain) if label.startswith("handed over")] == (
        ["handed over: trial 9"] if winner else []
    )


def test_predictions_are_listed_beside_what_was_measured(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 4)
    assert PREDICTIONS not in page.write_from(store, NOTHING, {})[0].read_text()
    metrics = {"gain": 7.25, "constraint": -0.125, "predicted/gain": 6.5, "predicted/constraint": -0.25}
    part = Candidate(0.5, {**store.records[2].metrics, **metrics})
    for number, scaled in ((2, (part,)), (3, ())):
        one = store.records[number]
        took = {**one.metrics, "time/profile_seconds": 0.2, "time/evaluation_seconds": 50.0}
        points = (dataclasses.replace(one.points[-1], metrics=took),)
        store.put(dataclasses.replace(one, points=points, scaled=scaled, profile=trial(number, 8.0).profile))
    text = text_of(page.write_from(store, NOTHING, {})[0], PREDICTIONS)
    assert "took 0.5 exact measurements a trial in the mean" in text
    assert "took 0.2 s and a measurement 50 s" in text
    assert text.endswith("2 0.5 +6.50% +7.25% -0.25 -0.12")
