"""What the page says of a sweep, in each of the ways that one can end."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Literal

import pytest
import torch

from adiabatic_ray import config
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report import page
from adiabatic_ray.report.regime import Change, Regime
from adiabatic_ray.trials.record import Confirmation, ProfilePoint, TrialRecord, best, contenders
from tests.records import checked
from tests.report.pages import IMPORTANCES, NOTHING, confirm, evidence, keep_outcomes, text_of
from tests.report.sweeps import PILOT, in_folder

VERDICT = '<div class="verdict'


def test_confirmation_refuted_all(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 16)
    first = confirm(store, 0.75)
    assert best(store.records.values()) is None
    text = text_of(page.write_from(store, evidence(store), {})[0], VERDICT)
    assert "no candidate was shown to be harmless" in text
    assert f"trial {first.number}, its constraint there is +0.75 (feasible at 0 or below)." in text


def test_of_many_refuted_trials_the_ten_best_are_named(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 40)
    refuted = contenders(store.records.values())
    assert len(refuted) > 10
    for record in refuted:
        bad = {"gain": 1.0, "p_value": 0.5, "constraint": 0.5}
        store.records[record.number] = dataclasses.replace(record, confirmations=checked(bad))
    text = text_of(page.write_from(store, NOTHING, {})[0], VERDICT)
    assert [int(n) for n in re.findall(r"trial (\d+), its constraint", text)] == [r.number for r in refuted[:10]]
    assert f"(feasible at 0 or below); and {len(refuted) - 10} more." in text


def test_confirmation_and_other_seeds_are_told_apart(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 8)
    winner = best(store.records.values())
    assert winner is not None
    assert "It is not confirmed on unseen sets yet" in text_of(page.write_from(store, NOTHING, {})[0], VERDICT)
    repeats = ({"gain": 6.0, "p_value": 0.01, "constraint": -0.2},)
    store.records[winner.number] = dataclasses.replace(winner, repeats=repeats)
    text = text_of(page.write_from(store, NOTHING, {})[0])
    assert "Its configuration stayed feasible with other seeds, on sets that no trial had seen." in text
    assert "1 of 1 stayed feasible; mean gain +6.00% (+6.00% to +6.00%)" in text  # of one there is no deviation
    confirm(store, -0.1, repeats=())
    text = text_of(page.write_from(store, NOTHING, {})[0], VERDICT)
    assert "stayed feasible on sets that no trial had seen, with a gain of +6.50% there (significant)." in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Change(None, 1e-8, None, 3e-8), "at or below 1e-08, the smallest tried 95%: below what was tried to 3e-08"),
        (Change(1e-6, None, 3e-7, None), "above 1e-06, the largest tried 95%: 3e-07 to above what was tried"),
        (Change(1e-8, 1e-7, 1e-8, 1e-6), "between 1e-08 and 1e-07 95%: 1e-08 to 1e-06"),
    ],
)
def test_where_something_changes(change: Change, says: str, tmp_path: Path) -> None:
    regimes = [Regime("none", (1e-8, 1e-7, 1e-6), 3, change, None)]
    store = in_folder(tmp_path, 0)
    text = text_of(page.write_from(store, dataclasses.replace(NOTHING, regimes=regimes), {})[0])
    assert f"{says} not identified 3, at 3 rates" in text


EDGE = Change(1e-6, 1e-5, 3e-7, None)
RATES = (1e-7, 1e-6, 1e-5)


@pytest.mark.parametrize(
    ("rates", "edge", "onset", "says"),
    [
        ((1e-8,), None, None, ["not identified: fewer than two learning rates were tried."]),
        (RATES, None, None, ["not identified: the learning rate alone does not tell feasible trials from infeasible"]),
        (
            *(RATES, Change(None, 1e-7, None, 1e-6), None),
            [
                "not reached: already the smallest rate tried, 1e-07, is infeasible",
                "(95% interval of the edge: below what was tried to 1e-06). Search smaller ones.",
            ],
        ),
        (
            *(RATES, EDGE, None),
            [
                "feasible up to 1e-06, and no longer at 1e-05",
                "(95% interval of the edge: 3e-07 to above what was tried);",
                "where the gain becomes significant is not identified.",
            ],
        ),
        (
            *(RATES, Change(1e-5, None, 1e-6, None), Change(1e-5, None, 1e-6, None)),
            [
                "feasible up to 1e-05, the largest rate tried; the edge was not reached",
                "(95% interval of the edge: 1e-06 to above what was tried);",
                "no feasible rate has a significant gain: there is no adiabatic regime among the rates tried.",
            ],
        ),
        (
            *(RATES, EDGE, Change(None, 1e-7, None, 1e-6)),
            [
                "the gain is significant from 1e-07, the smallest rate tried",
                "(95% interval of the onset: below what was tried to 1e-06). Adiabatic from 1e-07 to 1e-06.",
            ],
        ),
        (
            *(RATES, EDGE, Change(1e-7, 1e-6, 1e-7, 1e-6)),
            ["the gain is significant from 1e-06 (95% interval of the onset: 1e-07 to 1e-06). Adiabatic at 1e-06."],
        ),
    ],
)
def test_regimes_in_words(
    rates: tuple[float, ...], edge: Change | None, onset: Change | None, says: list[str], tmp_path: Path
) -> None:
    regimes = [Regime("none", rates, len(rates), edge, onset)]
    path = page.write_from(in_folder(tmp_path, 0), dataclasses.replace(NOTHING, regimes=regimes), {})[0]
    assert " ".join(says) in text_of(path)


def test_what_parts_of_displacements_add(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 16)
    caption = '<figure id="figure-worst_language"'
    text = text_of(page.write_from(store, NOTHING, {})[0], caption)
    numbers = re.search(r"makes (\d+) more trials feasible .* from \+(\S+)% to \+(\S+)%; the front has", text)
    assert numbers is not None
    rescued = [r for r in store.records.values() if r.candidate and not r.feasible]
    assert int(numbers[1]) == len(rescued)
    assert float(numbers[2]) <= float(numbers[3])
    for number, record in store.records.items():
        store.records[number] = dataclasses.replace(record, scaled=())
    text = text_of(page.write_from(store, NOTHING, {})[0], caption)
    assert re.search(r"The largest feasible gain is \+\d+\.\d\d%; no parts were measured\.", text)


def test_heat_maps_say_why_they_are_not_there(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 16)
    keep_outcomes(store)
    winner = best(store.records.values())
    assert winner is not None
    assert winner.candidate is not None
    place = '<p class="note" id="figure-heat_maps"'

    stored = outcomes.load(store.folder.trial(winner.number).outcomes)
    assert stored is not None
    (kept,) = stored.by_scale.values()
    for outcome, says in (
        ({0.125: kept}, f"the outcomes of trial {winner.number} on xnli at scale {winner.candidate.scale:g} were not"),
        ({winner.candidate.scale: {"xnli": kept["xnli"][:5]}}, "on xnli at scale"),  # of other premises
    ):
        outcomes.save(store.folder.trial(winner.number).outcomes, Outcomes(outcome, stored.languages))
        assert says in text_of(page.write_from(store, NOTHING, {})[0], place)

    store.folder.trial(winner.number).outcomes.write_bytes(b"damaged")
    text = text_of(page.write_from(store, NOTHING, {})[0], place)
    assert text == f"There are no heat maps: the outcomes of trial {winner.number} cannot be read."
    store.folder.trial(0).outcomes.unlink()
    text = text_of(page.write_from(store, NOTHING, {})[0], place)
    assert text == "There are no heat maps: the outcomes of trial 0 cannot be read."


def test_a_guard_without_languages_has_no_heat_maps(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 16, constraint=config.Constraint(data="msmarco"))
    winner = best(store.records.values())
    assert winner is not None
    assert winner.candidate is not None
    for number, scale in ((0, 1.0), (winner.number, winner.candidate.scale)):
        outcome = {"msmarco": torch.ones(4, dtype=torch.bool)}
        outcomes.save(store.folder.trial(number).outcomes, Outcomes({scale: outcome}, {}))
    text = text_of(page.write_from(store, NOTHING, {})[0])
    assert "There are no heat maps: msmarco has no pairs of languages." in text


def test_a_sweep_of_which_no_outcomes_can_be_read_still_has_its_page(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 8)
    text = text_of(page.write_from(store, dataclasses.replace(NOTHING, damaged=[*range(1, 9)]), IMPORTANCES)[0])
    assert "There are no curves: no trial's outcomes can be read." in text
    assert "Outcomes that cannot be read: trials 1, 2, 3, 4, 5, 6, 7, 8." in text


def test_a_sweep_that_fixes_the_learning_rate(tmp_path: Path) -> None:
    space = {"margin": PILOT.search.space["margin"]}
    store = in_folder(tmp_path, 6, search=dataclasses.replace(PILOT.search, space=space))
    store.folder.figures.mkdir()
    (store.folder.figures / "curves.svg").write_text("from an earlier report")
    written = page.write_from(store, evidence(store, regimes=[]), {})
    assert "the learning rate was not searched, it is 2e-08 throughout" in text_of(written[0])
    assert not (store.folder.figures / "curves.svg").exists()


def test_a_sweep_without_trials(tmp_path: Path) -> None:
    text = text_of(page.write_from(in_folder(tmp_path, 0), NOTHING, {})[0])
    assert "No trial has run yet." in text
    assert "0 trials beside the untouched encoder: 0 feasible, 0 stopped early, 0 failed." in text


def test_a_sweep_whose_trials_all_run_still(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 0)
    store.records[1] = TrialRecord(1, {"learning_rate": 1e-8})
    text = text_of(page.write_from(store, NOTHING, {})[0])
    assert "No trial is feasible: none was measured to its end." in text
    assert "1 trial beside the untouched encoder: 0 feasible, 0 stopped early, 0 failed, 1 not fin" in text
    assert text.count("No trial was measured yet.") == 4  # the curves, the trade, the history, the parallel coordinates


@pytest.mark.parametrize(
    ("level", "says"),
    [
        ("pair", "No single pair of languages (or the next coarser part) is significantly worse"),
        ("language", "No single query language is significantly worse"),
        ("overall", "No single set as a whole is significantly worse"),
    ],
)
def test_the_method_names_what_is_guarded(
    level: Literal["pair", "language", "overall"], says: str, tmp_path: Path
) -> None:
    store = in_folder(tmp_path, 0, constraint=config.Constraint(data="xnli", level=level, alpha=0.01, margin=2.5))
    text = text_of(page.write_from(store, NOTHING, {})[0], '<section id="method"')
    assert says in text
    assert "critical value at 0.01, Bonferroni-corrected" in text
    assert "stays below 2.5% of the untouched" in text


def test_a_winner_at_a_scale_that_selection_only_predicted(tmp_path: Path) -> None:
    """A sweep may be cut off after a test has passed and before selection is measured at that scale."""
    store = in_folder(tmp_path, 8)
    winner = best(store.records.values())
    assert winner is not None
    passed = (Confirmation(0.3, 4.5, {"gain": 4.0, "p_value": 0.01, "constraint": -0.2, "bound/overall": 0.25}),)
    profile = (ProfilePoint(0.3, 4.5, -0.4, 2.0),)
    store.records[winner.number] = dataclasses.replace(winner, confirmations=passed, profile=profile)
    text = text_of(page.write_from(store, NOTHING, {})[0], VERDICT)
    assert f"Trial {winner.number}, its displacement scaled to 0.3, improves msmarco by +4.50%" in text
    assert "at most 0.2% worse overall" in text


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("neutral/de/en", "de query, en texts, neutral"),
        ("xnli/contradiction/de/en", "xnli: de query, en texts, contradiction"),
        ("mrr_at_10/questions/sw", "mrr_at_10/questions/sw"),
        ("mrr_at_10/questions/sw>en", "mrr_at_10/questions: sw query, en texts"),
        ("sw>en", "sw query, en texts"),
        ("overall", "overall"),
        ("", "unknown"),
    ],
)
def test_groups_in_words(label: str, words: str) -> None:
    assert page.pair(label) == words
