"""What is said of the guarantee: the numbers of confirmation, and what would have to change where nothing passed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from adiabatic_ray import config
from adiabatic_ray.evaluate import guarantee, outcomes
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report.assurance import Assurance, way_out
from adiabatic_ray.trials.record import Confirmation
from adiabatic_ray.trials.store import TrialStore
from tests import guards
from tests.records import record
from tests.simulation import pairs
from tests.sweeps import minimal

BOUNDS = {"gain": 4.0, "bound/overall": 0.62, "bound/de": 2.38, "bound/en": -0.4, "bound/evidence": 0.3}
SENTENCE = (
    "Shown on sets that no trial had seen, at an error rate of 5%: the encoder is at most 0.6% worse overall "
    "(1% allowed) and at most 2.4% worse in any language (de; 3% allowed), however many trials there were. "
    "2 candidates were tested, from safe to bold."
)


def opened(folder: Path, **constraint: float) -> TrialStore:
    return TrialStore.create(folder, minimal(constraint=config.Constraint(data="xnli", **constraint)))


def test_the_guarantee_in_a_sentence(tmp_path: Path) -> None:
    store = opened(tmp_path)
    passed, failed = Confirmation(0.5, 3.0, BOUNDS), Confirmation(1.0, 5.0, {}, "it harms")
    winner = record(1, 5.0, confirmations=(passed, failed))
    store.put(record(0, confirmations=(Confirmation(1.0, 0.0, {}),)))  # the untouched encoder is not tested
    store.put(winner)
    store.put_order({"order": []})
    made = Assurance.of(store, winner)
    assert made is not None
    assert (made.guards[0].overall, made.guards[0].languages) == (0.62, {"de": 2.38, "en": -0.4})
    assert made.error_rate == 5.0
    assert made.sentence == SENTENCE
    store.put_order({"order": []})  # trials were added after the first one, and candidates tested again
    again = Assurance.of(store, winner)
    assert again is not None
    assert "at an error rate of 10%" in again.sentence


@pytest.mark.parametrize(
    ("bound", "says"),
    [(-0.84, "better by 0.8% or more"), (-0.04, "at most 0.0% worse"), (0.04, "at most 0.0% worse")],
)
def test_an_encoder_that_is_better_is_said_to_be(tmp_path: Path, bound: float, says: str) -> None:
    store, metrics = opened(tmp_path), {"bound/overall": bound, "bound/evidence": 2.0}
    made = Assurance.of(store, record(1, confirmations=(Confirmation(1.0, 1.0, metrics),)))
    assert made is not None
    assert f"the encoder is {says} overall (1% allowed), however" in made.sentence


def test_without_a_test_there_is_no_guarantee(tmp_path: Path) -> None:
    store = opened(tmp_path)
    refuted = record(1, confirmations=(Confirmation(1.0, 1.0, BOUNDS, "it harms"),))
    earlier = record(1, confirmations=(Confirmation(1.0, 1.0, {"gain": 1.0, "constraint": -0.1}),))
    assert [Assurance.of(store, one) for one in (None, record(1), refuted, earlier)] == [None] * 4


def test_where_nothing_passed_the_number_of_premises_is_said(tmp_path: Path) -> None:
    store = opened(tmp_path, language_margin=8.0)
    assert way_out(store) == ""
    base, tuned = pairs(200, seed=1)
    languages = [f"l{i}" for i in range(base.shape[2])]
    verdict = guards.verdict(base, tuned, languages, store.sweep.constraint)
    times = guarantee.times_needed(verdict)
    needed = None if times is None else math.ceil(200 * times)
    for number, scale, outcome in ((0, 1.0, base), (1, 0.5, tuned)):
        path = store.folder.trial(number).confirmation_outcomes
        outcomes.save(path, Outcomes({scale: {"xnli": outcome}}, {"xnli": languages}))
    store.put(record(1, confirmations=(Confirmation(0.5, 1.0, {}, "it harms"),)))
    expected = "" if needed is None else f"confirm on more premises (about {needed:,} for this candidate), "
    assert way_out(store).startswith(expected + "allow a wider margin")
    assert needed is not None
    outcomes.save(
        store.folder.trial(1).confirmation_outcomes, Outcomes({0.5: {"xnli": torch.ones_like(base)}}, {"xnli": []})
    )
    assert way_out(store).startswith("allow a wider margin")  # more premises would not help
    store.put(dataclasses.replace(store.records[1], confirmations=(Confirmation(0.25, 1.0, {}, "it harms"),)))
    assert way_out(store).startswith("allow a wider margin")
