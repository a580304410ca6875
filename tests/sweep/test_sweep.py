"""Whole sweeps on a real Ray, a real MLflow store and a real, if small, encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config, errors
from adiabatic_ray.report import tracking
from adiabatic_ray.report.ledger import FAILED_CONSTRAINT, Ledger, Record, best
from adiabatic_ray.sweep import driver
from adiabatic_ray.sweep.console import Console

Load = Callable[..., config.Sweep]

pytestmark = pytest.mark.usefixtures("ray_cluster")


def run(sweep: config.Sweep) -> tuple[Record | None, Ledger]:
    winner = driver.run(sweep, Console())
    return winner, ledger_of(sweep)


def ledger_of(sweep: config.Sweep) -> Ledger:
    return Ledger(Path(sweep.storage) / sweep.name)


def mlflow_runs(sweep: config.Sweep) -> dict[str, Any]:
    client = mlflow.MlflowClient(tracking.default_uri(Path(sweep.storage)))
    experiment = client.get_experiment_by_name(sweep.mlflow.experiment)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    by_number = {run.data.tags.get("sweep.trial", "parent"): run for run in found}
    assert len(by_number) == len(found), "two runs for one trial"
    return by_number


def test_a_sweep_from_end_to_end(load_sweep: Load, capsys: pytest.CaptureFixture[str], pocket: Path) -> None:
    sweep = load_sweep({"budget.confirm": 2})
    winner, ledger = run(sweep)
    printed = capsys.readouterr().out

    # Every trial ended and is on disk, the untouched encoder among them.
    assert sorted(ledger.records) == [0, 1, 2, 3, 4]
    assert {record.state for record in ledger.records.values()} <= {"complete", "stopped"}
    untouched = ledger.records[0]
    assert (untouched.gain, untouched.constraint) == (0.0, -1.0)
    assert untouched.metrics["pnd/questions"] > 0

    # The winner is feasible, was confirmed, and its encoder is one that sentence-transformers loads.
    assert winner is not None
    assert winner == best(ledger.records.values())
    assert winner.candidate is not None
    assert winner.confirmation["pnd/xnli"] > 0
    exported = ledger.folder / "best" / "query_encoder"
    tuned = SentenceTransformer(str(exported), device="cpu").encode_query(["who reads a book?"])
    base = SentenceTransformer(str(pocket / "encoder"), device="cpu").encode_query(["who reads a book?"])
    assert 0 < np.abs(tuned - base).max() < 0.5

    # MLflow holds the same numbers, and nothing is left running.
    runs = mlflow_runs(sweep)
    assert set(runs) == {"parent", "0", "1", "2", "3", "4"}
    assert not any(run.info.status == "RUNNING" for run in runs.values())
    for number, record in ledger.records.items():
        assert runs[str(number)].data.metrics["constraint"] == pytest.approx(record.constraint)
    parent = runs["parent"]
    assert winner.candidate is not None
    assert parent.data.metrics["gain"] == pytest.approx(winner.candidate.gain)
    assert parent.data.tags["best.trial"] == str(winner.number)
    client = mlflow.MlflowClient(tracking.default_uri(Path(sweep.storage)))
    artifacts = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    files = {"leaderboard.csv", "report.html", "figures"}
    assert files | {"sweep.json"} <= artifacts
    assert {entry.dataset.name for entry in parent.inputs.dataset_inputs} == {"train", "questions", "xnli"}
    assert len(client.search_logged_models([parent.info.experiment_id])) == 1

    # The terminal: one line an event, and nothing of Ray's.
    lines = printed.splitlines()
    assert sum(line.startswith("trial ") and "%" in line for line in lines) >= 5
    assert any(str(exported) in line for line in lines)
    assert any(line.startswith("MLflow: mlflow server --backend-store-uri sqlite:///") for line in lines)
    assert "ray" not in printed.replace("adiabatic-ray", "").replace("xray", "").lower().split()
    assert "Trial status" not in printed
    table = pd.read_csv(ledger.folder / "leaderboard.csv")
    assert table["trial"].tolist()[0] in (0, winner.number)
    discordance = pd.read_csv(ledger.trial_folder(winner.number) / "discordance.csv")
    questions = discordance[discordance["dataset"] == "questions"].iloc[0]
    assert questions["improvement"] == pytest.approx(winner.gain)

    # Run again, it has nothing to do, and changes nothing.
    before = {path: path.stat().st_mtime_ns for path in ledger.folder.glob("trials/*/trial.json")}
    again, _ = run(sweep)
    assert again == winner
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(mlflow_runs(sweep)) == set(runs)

    # A larger budget goes on from there; other settings are another sweep.
    longer = load_sweep({"budget.confirm": 2, "budget.trials": 5})
    _, ledger = run(longer)
    assert sorted(ledger.records) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(errors.SweepError, match=r"holds a sweep with other settings:\n  train.margin: 0.1 -> 0.2"):
        run(load_sweep({"budget.confirm": 2, "train.margin": 0.2}))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials(load_sweep: Load) -> None:
    changes = {"budget.trials": 3, "evaluate.confirmation": None}
    results = []
    for name in ("one", "two"):
        _, ledger = run(load_sweep(changes | {"name": name}))
        results.append({n: (dict(r.config), r.state, r.gain, r.constraint) for n, r in ledger.records.items()})
    assert results[0] == results[1]
    assert len({json.dumps(config_) for config_, *_ in results[0].values()}) == 4


@pytest.mark.slow
def test_trials_that_fail_are_results_and_the_rest_goes_on(load_sweep: Load) -> None:
    """A rate without bounds, settings that do not go together, harm beyond doubt, and a sound trial."""
    sweep = load_sweep(
        {
            "search": {
                "objective": "questions",
                "method": "grid",
                "space": {
                    "learning_rate": [1e30, 3e-2, 3e-5],
                    "loss": ["triplet_margin", "infonce"],
                    "batch_size": [1],
                },
            },
            "train.steps": 40,
            "train.evaluations": 4,
            "budget": {"failed_trials": 3},
            "evaluate.confirmation": None,
        }
    )
    winner, ledger = run(sweep)
    states = {(r.config["learning_rate"], r.config["loss"]): r for n, r in ledger.records.items() if n}
    assert states[1e30, "triplet_margin"].state == "diverged"
    assert "the loss is nan" in states[1e30, "triplet_margin"].reason
    assert states[3e-2, "triplet_margin"].state in ("stopped", "diverged")
    for rate in (1e30, 3e-2, 3e-5):
        crashed = states[rate, "infonce"]
        assert crashed.state == "crashed"
        assert crashed.reason.startswith("InvalidValue: `batch_size` must be at least 2 for the loss `infonce`")
        assert (crashed.constraint, crashed.feasible) == (FAILED_CONSTRAINT, False)
        assert "Traceback" in (ledger.trial_folder(crashed.number) / "error.txt").read_text()
    assert winner == states[3e-5, "triplet_margin"]
    runs = mlflow_runs(sweep)
    for number, record in ledger.records.items():
        expected = {"complete": "FINISHED", "stopped": "KILLED"}.get(record.state, "FAILED")
        assert runs[str(number)].info.status == expected
        assert runs[str(number)].data.metrics["feasible"] == float(record.feasible)
        assert runs[str(number)].data.metrics["constraint"] == pytest.approx(record.constraint)


@pytest.mark.slow
def test_harmful_trials_stop_early(load_sweep: Load) -> None:
    sweep = load_sweep(
        {
            "search": {
                "objective": "questions",
                "method": "grid",
                "space": {"learning_rate": [3e-3]},
            },
            "train.steps": 60,
            "train.evaluations": 6,
            "evaluate.selection.xnli.limit": 100,
            "evaluate.confirmation": None,
            "budget": {},
        }
    )
    winner, ledger = run(sweep)
    record = ledger.records[1]
    assert winner is None
    assert record.state == "stopped"
    assert record.points[-1].step < 60
    assert (record.constraint or 0) > 0
    assert [path.name for path in ledger.trial_folder(1).glob("*.safetensors")] == ["outcomes.safetensors"]
    assert mlflow_runs(sweep)["1"].info.status == "KILLED"
    assert not (ledger.folder / "best").exists()


@pytest.mark.slow
def test_too_many_crashes_end_the_sweep(load_sweep: Load) -> None:
    sweep = load_sweep(
        {
            "search": {
                "objective": "questions",
                "method": "grid",
                "space": {"loss": ["infonce"], "batch_size": [1], "margin": [0.1, 0.2, 0.3]},
            },
            "budget": {"failed_trials": 1},
            "evaluate.confirmation": None,
        }
    )
    with pytest.raises(errors.SweepError, match=r"2 trials crashed, and `budget.failed_trials` allows 1; the last one"):
        run(sweep)
    assert [r.state for _, r in sorted(ledger_of(sweep).records.items())] == ["complete", "crashed", "crashed"]


def test_what_cannot_work_fails_before_any_trial(load_sweep: Load, tmp_path: Path) -> None:
    with pytest.raises(errors.ResourceError, match=r"no node can hold a trial, which needs 64 CPU"):
        run(load_sweep({"resources.cpus_per_trial": 64, "name": "a"}))
    with pytest.raises(errors.DataError, match=r"questions: .*none.jsonl does not exist"):
        run(load_sweep({"evaluate.selection.questions.path": str(tmp_path / "none.jsonl"), "name": "b"}))
    with pytest.raises(errors.MaskError, match=r"freeze: the pattern `layer.9`"):
        run(load_sweep({"search.space.freeze": ["embeddings", "layer.9"], "name": "b"}))  # what failed may be mended
    with pytest.raises(errors.ModelError, match=r"holds no model"):
        run(load_sweep({"model.name": str(tmp_path), "name": "c"}))


@pytest.mark.slow
def test_several_trials_at_once(load_sweep: Load) -> None:
    sweep = load_sweep({"resources.concurrent_trials": 2, "budget.trials": 4, "evaluate.confirmation": None})
    _, ledger = run(sweep)
    assert sorted(ledger.records) == [0, 1, 2, 3, 4]
    spans = [(r.started, r.finished) for n, r in ledger.records.items() if n]
    assert any(a[0] < b[0] < (a[1] or 0) for a in spans for b in spans if a != b), "no two trials overlapped"
    assert len({tuple(r.config.items()) for n, r in ledger.records.items() if n}) == 4


@pytest.mark.slow
def test_what_is_handed_over_follows_the_winner(load_sweep: Load) -> None:
    """A larger budget finds a better trial, or confirms more of them."""
    changes = {
        "search": {"objective": "questions", "method": "grid", "space": {"learning_rate": [1e-5, 3e-5]}},
        "train.steps": 40,
        "constraint": {"data": "xnli", "margin": 90.0, "alpha": 1e-9},
        "evaluate.confirmation": None,
    }
    for trials in (1, 2):
        winner, ledger = run(load_sweep(changes | {"budget": {"trials": trials, "confirm": trials}}))
        assert winner is not None
        assert winner.number == trials
        assert json.loads((ledger.folder / "best" / "trial.json").read_text())["number"] == trials
    assert mlflow_runs(load_sweep(changes))["parent"].data.tags["best.model"] == "2"
