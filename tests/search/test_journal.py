"""A finished sweep as an Optuna study, read by Optuna itself."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib import request

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from adiabatic_ray import config
from adiabatic_ray.search import journal
from adiabatic_ray.trials.record import UNTOUCHED, Candidate, Evaluation, TrialRecord
from tests import mlflow_server
from tests.sweeps import minimal
from tests.waiting import until

SPACE: dict[str, config.Range | list[config.Scalar]] = {
    "learning_rate": config.Range(low=1e-8, high=1e-4, log=True),
    "freeze": ["embeddings", "none"],
}


def sweep(**changes: Any) -> config.Sweep:
    """A search over `SPACE`, changed in its section `search`."""
    searched = config.Search(objective="questions", space=SPACE, **changes)
    return minimal(name="mine", search=searched, budget=config.Budget(trials=6))


def trial(number: int, gain: float, constraint: float, state: str = "complete", **changes: object) -> TrialRecord:
    choice = {"learning_rate": 10.0 ** -(4 + number % 4), "freeze": "none" if number % 2 else "embeddings"}
    points = (
        Evaluation(4, 1.0, {"gain": gain / 2, "constraint": -1.0}),
        Evaluation(8, 2.0, measured(gain, constraint)),
    )
    return TrialRecord(number, choice, state, points=points, worst="neutral/de/en", **changes)  # type: ignore[arg-type]


def measured(gain: float, constraint: float) -> dict[str, float]:
    return {"gain": gain, "constraint": constraint}


RECORDS = [
    TrialRecord(UNTOUCHED, {}, "complete", points=(Evaluation(0, 0.0, measured(0.0, -1.0)),)),
    trial(1, 4.0, -0.5),
    trial(2, 20.0, 2.0, scaled=(Candidate(0.5, measured(8.0, -0.1), "neutral/tr/en"),)),
    trial(3, 6.0, 0.4, "stopped"),
    trial(4, 0.0, 0.0, "diverged", reason="the loss is nan at step 3"),
    trial(5, 9.0, 1.0),
    trial(6, 1.0, 0.0, "running"),
]


def load(path: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(path))))


def test_a_sweep_over_edges(tmp_path: Path) -> None:
    journal.write(tmp_path / "study.journal", sweep(), RECORDS)
    study = load(tmp_path / "study.journal")
    assert study.study_name == "mine"
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]
    assert [one.state for one in study.trials] == states
    assert [one.user_attrs["trial"] for one in study.trials] == [1, 2, 3, 4, 5]
    assert [one.value for one in study.trials] == [4.0, 8.0, None, None, 0.0]  # nothing of trial 5 is feasible
    second = study.trials[1]
    assert second.params == {"learning_rate": 1e-6, "freeze": "embeddings"}
    assert second.constraints == {journal.CONSTRAINT: -0.1}
    assert second.user_attrs["scale"] == 0.5
    assert second.user_attrs["gain of the whole displacement"] == 20.0
    assert second.user_attrs["worst"] == "neutral/tr/en"
    assert second.intermediate_values == {4: 10.0, 8: 20.0}
    assert study.trials[3].user_attrs["reason"] == "the loss is nan at step 3"
    assert study.best_trial.user_attrs["trial"] == 2


def test_a_sweep_over_whole_displacements(tmp_path: Path) -> None:
    for _ in range(2):  # once more, as `report` does
        journal.write(tmp_path / "study.journal", sweep(candidates="whole"), RECORDS)
    study = load(tmp_path / "study.journal")
    assert [one.value for one in study.trials] == [4.0, 20.0, None, None, 9.0]
    assert study.best_trial.user_attrs["trial"] == 1  # the others harm a language
    assert set(optuna.importance.get_param_importances(study)) == {"learning_rate", "freeze"}


def test_it_is_read_without_this_project(tmp_path: Path) -> None:
    journal.write(tmp_path / "study.journal", sweep(), RECORDS)
    program = """
import sys, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend("study.journal")))
assert study.best_value == 8.0
assert not any(name.startswith("adiabatic_ray") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


@pytest.mark.slow
def test_optunas_dashboard_shows_it(tmp_path: Path) -> None:
    journal.write(tmp_path / "study.journal", sweep(), RECORDS)
    port = mlflow_server.free_port()
    command = [Path(sys.executable).with_name("optuna-dashboard"), "study.journal", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as server:
        try:
            shown: list[dict[str, Any]] = []

            def answers() -> bool:
                with contextlib.suppress(OSError), request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                    shown[:] = json.load(answer)["study_summaries"]
                return bool(shown)

            until(answers, "Optuna's dashboard")
        finally:
            server.terminate()
    assert [one["study_name"] for one in shown] == ["mine"]
