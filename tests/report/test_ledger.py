"""Records survive, and the best is never infeasible."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from adiabatic_ray import errors
from adiabatic_ray.report.ledger import Ledger, Point, Record, best, ranked


def record(number: int, gain: float = 0.0, constraint: float = -0.5, **changes: Any) -> Record:
    points = (Point(4, 100.0, {"gain": gain, "constraint": constraint}),)
    made = Record(number, {"learning_rate": 1e-6 * number}, "complete", "", 1.0, 2.0, points, "neutral/de/en")
    return dataclasses.replace(made, **changes)


def test_records_are_read_back(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "s", {"name": "s"})
    records = [record(1), record(12, state="running", finished=None), record(2, confirmation={"constraint": 0.1})]
    for one in records:
        ledger.put(one)
    again = Ledger(tmp_path / "s")
    assert again.id == ledger.id
    assert again.settings == {"name": "s"}
    assert again.records == {one.number: one for one in records}
    assert [one.number for one in again.finished()] == [1, 2]


def test_a_record_that_a_kill_left_half_written_does_not_count(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "s", {})
    ledger.put(record(1))
    ledger.trial_folder(2).mkdir()
    (ledger.trial_folder(2) / "trial.partial").write_text('{"number":')
    assert list(Ledger(tmp_path / "s").records) == [1]


@pytest.mark.parametrize("name", ["sweep.json", "trials/0001/trial.json"])
@pytest.mark.parametrize("damage", ["half", "[]", "{}"])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, name: str, damage: str) -> None:
    Ledger.create(tmp_path, {}).put(record(1))
    whole = (tmp_path / name).read_text()
    (tmp_path / name).write_text(whole[: len(whole) // 2] if damage == "half" else damage)
    with pytest.raises(errors.SweepError, match=rf"{name} is damaged \(.+\)\. .*[Dd]elete {tmp_path}"):
        Ledger(tmp_path)


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(errors.SweepError, match=r"holds no sweep: there is no `sweep.json`"):
        Ledger(tmp_path)


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
    assert best([one for one in records if not one.feasible]) is None
    assert best([records[-1]]) is None


def test_a_trial_that_stayed_feasible_on_confirmation_goes_first() -> None:
    lucky = record(1, gain=5.0, confirmation={"constraint": 0.4})
    sound = record(2, gain=3.0, confirmation={"constraint": -0.1})
    unconfirmed = record(3, gain=4.0)
    assert best([lucky, sound, unconfirmed]) == sound
    assert best([lucky, unconfirmed]) is None  # what confirmation refuted is never the best, nor what it never saw
    assert best([unconfirmed]) == unconfirmed
    assert lucky.confirmed is False
    assert unconfirmed.confirmed is None


def test_what_gains_nothing_is_not_handed_over() -> None:
    records = [record(0, gain=0.0), record(1, gain=-2.0), record(2, gain=0.0)]
    assert best(records) is None  # the untouched encoder is feasible, and better
    assert best([*records, record(3, gain=0.1)]) == record(3, gain=0.1)


def test_record_files_are_plain_json(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "s", {})
    ledger.put(record(7))
    content = json.loads((tmp_path / "s" / "trials" / "0007" / "trial.json").read_text())
    assert content["config"] == {"learning_rate": 7e-6}
    assert content["points"][0]["metrics"]["constraint"] == -0.5
