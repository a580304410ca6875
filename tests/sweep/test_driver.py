"""Whole sweeps on a real Ray, a real MLflow store and a real, if small, encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config, errors
from adiabatic_ray.sweep import driver
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import FAILED_CONSTRAINT, TrialRecord, best
from adiabatic_ray.trials.store import TrialStore
from tests import tracked
from tests.terminal import rays_lines

Load = Callable[..., config.Sweep]

pytestmark = pytest.mark.usefixtures("ray_cluster")

# Ray's core says this once of any actor of Ray Data's, by a file descriptor, and only where no Ray of our own embeds.
OF_RAY_DATA = "Actor with class name: 'MapWorker(Map(_Embedder))'"


def run(sweep: config.Sweep) -> tuple[TrialRecord | None, TrialStore]:
    winner = driver.run(sweep, Console())
    return winner, store_of(sweep)


def store_of(sweep: config.Sweep) -> TrialStore:
    return TrialStore(StorageFolder.at(sweep.storage).sweep(sweep.name).path)


def test_a_sweep_from_end_to_end(load_sweep: Load, capfd: pytest.CaptureFixture[str], pocket: Path) -> None:
    sweep = load_sweep({"budget.confirm": 2})
    winner, store = run(sweep)
    printed, warned = capfd.readouterr()

    # Every trial ended and is on disk, the untouched encoder among them.
    assert sorted(store.records) == [0, 1, 2, 3, 4]
    assert {record.state for record in store.records.values()} <= {"complete", "stopped"}
    untouched = store.records[0]
    assert (untouched.gain, untouched.constraint) == (0.0, -1.0)
    assert untouched.metrics["pnd/questions"] > 0

    # The winner is feasible, was confirmed, and its encoder is one that sentence-transformers loads.
    assert winner is not None
    assert winner == best(store.records.values())
    assert winner.candidate is not None
    assert winner.confirmation["pnd/xnli"] > 0
    exported = store.folder.path / "best" / "query_encoder"
    tuned = SentenceTransformer(str(exported), device="cpu").encode_query(["who reads a book?"])
    base = SentenceTransformer(str(pocket / "encoder"), device="cpu").encode_query(["who reads a book?"])
    assert 0 < np.abs(tuned - base).max() < 0.5

    # MLflow holds the same numbers, and nothing is left running.
    runs = tracked.runs(sweep)
    assert set(runs) == {"parent", "0", "1", "2", "3", "4"}
    assert not any(run.info.status == "RUNNING" for run in runs.values())
    for number, record in store.records.items():
        assert runs[str(number)].data.metrics["constraint"] == pytest.approx(record.constraint)
    parent = runs["parent"]
    assert parent.data.metrics["gain"] == pytest.approx(winner.candidate.gain)
    assert parent.data.tags["best.trial"] == str(winner.number)
    client = mlflow.MlflowClient(tracked.default_uri(sweep))
    artifacts = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    files = {"leaderboard.csv", "report.html", "figures"}
    assert files | {"sweep.json"} <= artifacts
    assert {entry.dataset.name for entry in parent.inputs.dataset_inputs} == {"train", "questions", "xnli"}
    assert len(client.search_logged_models([parent.info.experiment_id])) == 1

    # The terminal: one line an event, and nothing of Ray's.
    lines = printed.splitlines()
    assert sum(line.startswith("trial ") and "%" in line for line in lines) >= 5
    assert any(str(exported) in line for line in lines)
    assert f"MLflow: adiabatic-ray ui {store.folder.path}" in lines
    assert rays_lines(printed) == []
    assert [line for line in rays_lines(warned) if OF_RAY_DATA not in line] == []
    table = pd.read_csv(store.folder.path / "leaderboard.csv")
    assert table["trial"].tolist()[0] in (0, winner.number)
    journal = JournalStorage(JournalFileBackend(str(store.folder.path / "study.journal")))
    study = optuna.load_study(study_name=sweep.name, storage=journal)
    assert {one.user_attrs["trial"]: one.value for one in study.trials if one.value is not None} == {
        number: record.gain_at_edge for number, record in store.records.items() if record.state == "complete" and number
    }
    discordance = pd.read_csv(store.folder.trial(winner.number).path / "discordance.csv")
    questions = discordance[discordance["dataset"] == "questions"].iloc[0]
    assert questions["improvement"] == pytest.approx(winner.gain)

    # Run again, it has nothing to do, and changes nothing.
    before = {path: path.stat().st_mtime_ns for path in store.folder.path.glob("trials/*/trial.json")}
    again, _ = run(sweep)
    assert again == winner
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(tracked.runs(sweep)) == set(runs)

    # A larger budget goes on from there; other settings are another sweep.
    longer = load_sweep({"budget.confirm": 2, "budget.trials": 5})
    _, store = run(longer)
    assert sorted(store.records) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(errors.SweepError, match=r"holds a sweep with other settings:\n  train.margin: 0.1 -> 0.2"):
        run(load_sweep({"budget.confirm": 2, "train.margin": 0.2}))


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("\x1b[36m(ray::QueryTuning pid=4242)\x1b[0m step 3", True),
        ("(QueryTuning pid=4242, ip=10.0.0.7) step 3", True),
        ("(pid=4242) Setting up", True),
        ("ray.exceptions.RayActorError: The actor died", True),
        ("2026-01-31 12:00:00,123\tINFO worker.py:1852 -- Started a local instance.", True),
        ("Started a local Ray instance", True),
        ("== Trial Status: 1 RUNNING ==", True),
        ("[2026-01-31 12:00:00,123 E 4242 4242] core_worker.cc:2465: Actor with class name: 'A'", True),
        ("(raylet) Spilled 2000 MiB", True),
        ("(autoscaler +12s) Adding 1 node(s) of type trials.", True),
        ("run the same command to go on: adiabatic-ray sweep /home/ray/small.yaml", False),
        ("MLflow: adiabatic-ray ui /tmp/ray/runs/small", False),
        ("an array of X-rays, gray", False),
    ],
)
def test_lines_of_rays_are_told_from_ours(line: str, seen: bool) -> None:
    """The check above can fail."""
    assert rays_lines(f"trial   1  gain +1.00%\n{line}\n") == ([line] if seen else [])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials(load_sweep: Load) -> None:
    changes = {"budget.trials": 3, "evaluate.confirmation": None}
    results = []
    for name in ("one", "two"):
        _, store = run(load_sweep(changes | {"name": name}))
        results.append({n: (dict(r.config), r.state, r.gain, r.constraint) for n, r in store.records.items()})
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
    winner, store = run(sweep)
    states = {(r.config["learning_rate"], r.config["loss"]): r for n, r in store.records.items() if n}
    assert states[1e30, "triplet_margin"].state == "diverged"
    assert "the loss is nan" in states[1e30, "triplet_margin"].reason
    assert states[3e-2, "triplet_margin"].state in ("stopped", "diverged")
    for rate in (1e30, 3e-2, 3e-5):
        crashed = states[rate, "infonce"]
        assert crashed.state == "crashed"
        assert crashed.reason.startswith("InvalidValue: `batch_size` must be at least 2 for the loss `infonce`")
        assert (crashed.constraint, crashed.feasible) == (FAILED_CONSTRAINT, False)
        assert "Traceback" in (store.folder.trial(crashed.number).path / "error.txt").read_text()
    assert winner == states[3e-5, "triplet_margin"]
    runs = tracked.runs(sweep)
    for number, record in store.records.items():
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
                "candidates": "whole",
            },
            "train.steps": 60,
            "train.evaluations": 6,
            "evaluate.selection.xnli.limit": 100,
            "evaluate.confirmation": None,
            "budget": {},
        }
    )
    winner, store = run(sweep)
    record = store.records[1]
    assert winner is None
    assert record.state == "stopped"
    assert record.points[-1].step < 60
    assert (record.constraint or 0) > 0
    assert [path.name for path in store.folder.trial(1).path.glob("*.safetensors")] == ["outcomes.safetensors"]
    assert tracked.runs(sweep)["1"].info.status == "KILLED"
    assert not (store.folder.path / "best").exists()


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
    assert [r.state for _, r in sorted(store_of(sweep).records.items())] == ["complete", "crashed", "crashed"]


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
    _, store = run(sweep)
    assert sorted(store.records) == [0, 1, 2, 3, 4]
    spans = [(r.started, r.finished) for n, r in store.records.items() if n]
    assert any(a[0] < b[0] < (a[1] or 0) for a in spans for b in spans if a != b), "no two trials overlapped"
    assert len({tuple(r.config.items()) for n, r in store.records.items() if n}) == 4


@pytest.mark.slow
def test_a_trial_on_two_processes_is_the_same_trial(load_sweep: Load) -> None:
    rates = {"learning_rate": [1e-5, 2e-5], "freeze": ["embeddings", "embeddings+output.dense.weight"]}
    changes = {
        "search": {"objective": "questions", "method": "grid", "space": rates},
        "budget": {},
        "evaluate.confirmation": None,
    }
    outcomes = []
    for workers in (1, 2):
        _, store = run(load_sweep(changes | {"name": f"on_{workers}", "resources.workers_per_trial": workers}))
        assert [record.state for record in store.finished()] == ["complete"] * 5
        outcomes.append([(record.gain, record.metrics.get("loss", 0.0)) for record in store.finished()])
    for (gain, loss), (other_gain, other_loss) in zip(*outcomes, strict=True):
        assert gain == other_gain
        assert loss == pytest.approx(other_loss, abs=1e-6)


@pytest.mark.slow
def test_what_is_handed_over_follows_the_winner(load_sweep: Load) -> None:
    """A larger budget finds a better trial, or confirms more of them."""
    changes = {
        "search": {"objective": "questions", "method": "grid", "space": {"learning_rate": [1e-5, 3e-5]}},
        "train.steps": 40,
        "constraint": {"data": "xnli", "margin": 90.0, "language_margin": 90.0, "alpha": 1e-3},
        "evaluate.confirmation": None,
    }
    for trials in (1, 2):
        winner, store = run(load_sweep(changes | {"budget": {"trials": trials, "confirm": trials}}))
        assert winner is not None
        assert winner.number == trials
        assert json.loads((store.folder.path / "best" / "trial.json").read_text())["number"] == trials
    assert tracked.runs(load_sweep(changes))["parent"].data.tags["best.model"] == "2"
