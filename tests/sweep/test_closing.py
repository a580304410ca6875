"""What a sweep says at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from adiabatic_ray.sweep import closing
from adiabatic_ray.trials.record import TrialRecord, best
from adiabatic_ray.trials.store import TrialStore
from tests import sweeps
from tests.records import checked, record

SERVER = "http://mlflow:5000"
UNTOUCHED = record(0, 0.0, -1.0)


def said(
    folder: Path, *records: TrialRecord, status: str = "FINISHED", mlflow: str = SERVER, trouble: str = ""
) -> list[str]:
    store = TrialStore.create(folder, sweeps.MINIMAL)
    for one in (UNTOUCHED, *records):
        store.put(one)
    winner = best(store.records.values())
    return list(closing.lines(store, winner, store.folder.best if winner else None, status, mlflow, trouble))


def test_where_everything_is(tmp_path: Path) -> None:
    assert said(tmp_path, record(1, 3.0), record(2, 5.0)) == [
        f"best query encoder: {tmp_path}/best/query_encoder (trial 2)",
        f"report: {tmp_path}/report.html",
        "MLflow: http://mlflow:5000",
    ]


@pytest.mark.parametrize(
    ("records", "facts"),
    [
        ([record(1, 9.0, 0.7), record(2, 9.0, 0.4)], ["no trial is feasible", "trial 2", "+0.40"]),
        ([record(1, -3.0), record(2, -0.5)], ["better than the untouched encoder", "trial 2", "-0.50%", "larger"]),
        (
            [
                record(1, 3.0, confirmations=checked({"constraint": 0.2})),
                record(2, 9.0, confirmations=checked({"constraint": 0.1})),
            ],
            ["no candidate was shown to be harmless", "its constraint there is +0.20", "smaller learning rates"],
        ),
    ],
)
def test_nothing_to_hand_over(tmp_path: Path, records: list[TrialRecord], facts: list[str]) -> None:
    why, *rest = said(tmp_path, *records)
    assert [fact for fact in facts if fact not in why] == []
    assert rest == [f"report: {tmp_path}/report.html", "MLflow: http://mlflow:5000"]


def test_a_sweep_that_was_stopped_says_nothing_of_what_may_yet_come(tmp_path: Path) -> None:
    assert said(tmp_path, record(1, 9.0, 0.7), status="KILLED") == [
        f"report: {tmp_path}/report.html",
        "MLflow: http://mlflow:5000",
        "stopped; run the same command to go on",
    ]


def test_mlflow_that_is_behind_or_a_file(tmp_path: Path) -> None:
    behind = said(tmp_path / "a", record(1, 3.0), trouble="it does not answer")[-1]
    assert "http://mlflow:5000 is behind (it does not answer)" in behind
    last = said(tmp_path / "b", record(1, 3.0), mlflow="sqlite:////runs/mlflow.db")[-1]
    assert last == f"MLflow: adiabatic-ray ui {tmp_path / 'b'}"


def test_the_description_in_mlflow_has_the_first_trials_and_says_how_to_go_on(tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path, sweeps.MINIMAL)
    for number in range(1, 8):
        store.put(record(number, float(number)))
    store.put(record(8, 9.0, 0.5))  # harms somebody
    text = closing.description(store, store.records[7], "KILLED")
    assert text.startswith("The sweep was stopped; the same command goes on.\n\n")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["| 7", "| 6", "| 5", "| 4", "| 3"]
    assert rows[0][1:3] == ["+7.00", "best"]
    assert text.endswith(f"All trials: `adiabatic-ray leaderboard {tmp_path}`")
