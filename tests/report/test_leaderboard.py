"""The leaderboard as a table and a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from adiabatic_ray.report import leaderboard
from adiabatic_ray.report.ledger import Point, Record


def record(number: int, gain: float, constraint: float, rate: float = 1e-6, state: Any = "complete") -> Record:
    p_value = 0.2 if gain < 1 else 0.001
    metrics = {"gain": gain, "constraint": constraint, "p_value": p_value, "worst_language": -gain / 2}
    config = {} if number == 0 else {"learning_rate": rate, "freeze": "embeddings"}
    return Record(number, config, state, "", 1.0, 3.5, (Point(8, 3.0, metrics),), "neutral/de/en")


RECORDS = [record(0, 0, -1), record(1, 0.5, -0.6, 1e-7), record(2, 4.0, -0.2), record(3, 20.0, 3.0, 1e-4, "stopped")]


def test_file(tmp_path: Path) -> None:
    table = pd.read_csv(leaderboard.write(RECORDS, tmp_path))
    assert table["trial"].tolist() == [2, 1, 0, 3]
    assert table["feasible"].tolist() == [True, True, True, False]
    assert table["standing"].tolist() == ["best", "feasible", "feasible", "stopped"]
    assert table["seconds"].tolist() == [2.5] * 4
    assert table.loc[0, "gain"] == 4.0


def test_a_trial_that_confirmation_refuted_is_not_the_best() -> None:
    refuted = dataclasses.replace(RECORDS[2], confirmation={"gain": 3.0, "p_value": 0.01, "constraint": 0.4})
    confirmed = dataclasses.replace(RECORDS[1], confirmation={"gain": 0.4, "p_value": 0.3, "constraint": -0.5})
    table = leaderboard.table([RECORDS[0], refuted, confirmed])
    assert dict(zip(table["trial"], table["standing"], strict=True)) == {2: "not confirmed", 1: "best", 0: "feasible"}
    assert table.set_index("trial").loc[2, "confirmation_constraint"] == 0.4


@pytest.mark.parametrize(
    ("value", "shown"), [(3.14159e-7, "3.14e-07"), (14, "14"), ("none", "none"), (None, "None"), (1234.5, "1234")]
)
def test_numbers_for_people(value: Any, shown: str) -> None:
    assert leaderboard.show(value) == shown
