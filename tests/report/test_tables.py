"""The leaderboard as a table and a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from adiabatic_ray.report import tables
from adiabatic_ray.trials.layout import SweepFolder
from tests.records import checked
from tests.report.sweeps import part, trial

RECORDS = [trial(0, 0, -1), trial(1, 0.5, -0.6, 1e-7), trial(2, 4.0, -0.2), trial(3, 20.0, 3.0, 1e-4, state="stopped")]


def test_the_file_has_a_row_for_each_trial_from_best_to_worst(tmp_path: Path) -> None:
    path = SweepFolder(tmp_path).leaderboard
    assert tables.write(RECORDS, path) == path
    table = pd.read_csv(path)
    assert table["place"].tolist() == [1, 2, 3, 4]
    assert table["trial"].tolist() == [2, 1, 0, 3]
    assert table["feasible"].tolist() == [True, True, True, False]
    assert table["standing"].tolist() == ["best", "feasible", "feasible", "stopped"]
    assert table["seconds"].tolist() == [2.5] * 4
    assert table.loc[0, "gain"] == 4.0
    assert table.loc[0, "improvement/xnli/de"] == -2.0


def test_columns_keep_their_names_and_their_order() -> None:
    """Other programs read the file."""
    assert list(tables.table(RECORDS).columns) == [
        *("place", "trial", "standing", "gain", "p_value", "constraint", "scale", "scale_gain", "scale_constraint"),
        *("confirmation_gain", "confirmation_p_value", "confirmation_constraint"),
        *("confirmation_bound", "confirmation_bound_language"),
        *("seeds", "seeds_feasible", "seeds_gain", "seeds_gain_sd", "worst", "learning_rate", "freeze"),
        *("state", "feasible", "seconds", "reason", "worst_language"),
        *("improvement/msmarco", "p_value/msmarco", "improvement/xnli", "improvement/xnli/de"),
    ]


def test_a_trial_that_confirmation_refuted_is_not_the_best() -> None:
    refuted = dataclasses.replace(RECORDS[2], confirmations=checked({"gain": 3.0, "p_value": 0.01, "constraint": 0.4}))
    confirmed = dataclasses.replace(
        RECORDS[1], confirmations=checked({"gain": 0.4, "p_value": 0.3, "constraint": -0.5})
    )
    table = tables.table([RECORDS[0], refuted, confirmed])
    assert dict(zip(table["trial"], table["standing"], strict=True)) == {2: "not confirmed", 1: "best", 0: "feasible"}
    assert table.set_index("trial").loc[2, "confirmation_constraint"] == 0.4


def test_a_part_of_a_displacement_stands_beside_the_whole() -> None:
    rescued = trial(4, 9.0, 0.7, scaled=(part(0.5, 2.0, -1.0, -0.3),))
    row = tables.table([RECORDS[2], rescued]).iloc[1]
    assert (row["trial"], row["standing"]) == (4, "feasible at 0.5")
    assert (row["gain"], row["constraint"]) == (9.0, 0.7)
    assert (row["scale"], row["scale_gain"], row["scale_constraint"]) == (0.5, 2.0, -0.3)


def test_repeats_are_summed_up() -> None:
    repeats = tuple({"gain": gain, "constraint": gain - 3.5} for gain in (1.0, 2.0, 4.0))
    row = tables.table([trial(2, 4.0, -0.2, repeats=repeats)]).iloc[0]
    assert (row["seeds"], row["seeds_feasible"]) == (3, pytest.approx(2 / 3))
    assert (row["seeds_gain"], row["seeds_gain_sd"]) == pytest.approx((7 / 3, 1.5275252))


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("neutral/bg/vi", "bg (neutral)"),
        ("xnli/neutral/bg/vi", "bg (neutral)"),
        ("ndcg_at_10/archive/tr", "tr (ndcg_at_10/archive)"),
        ("ndcg_at_10/archive/tr>en", "tr (ndcg_at_10/archive/en texts)"),
        ("tr>en", "tr (en texts)"),
        ("tr", "tr"),
        ("", "somebody"),
    ],
)
def test_whom_a_trial_harms(group: str, words: str) -> None:
    assert tables.whom(group) == words
