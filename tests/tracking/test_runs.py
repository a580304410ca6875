"""A sweep's runs in a real MLflow store: one parent a sweep, one child a trial, whatever happens in between."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mlflow
import pytest
import ray

from adiabatic_ray.trials.record import Candidate, Evaluation, State, TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests import tracked
from tests.records import checked
from tests.tracking.mirrored import history, open_runs, points


def client(store: TrialStore) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracked.default_uri(store.sweep))


def test_a_sweep_is_a_parent_and_a_trial_a_child(store: TrialStore) -> None:
    open_runs(store).sync()
    runs = tracked.runs(store.sweep)
    assert set(runs) == {"parent", "0", "1"}
    parent, untouched, trial = runs["parent"], runs["0"], runs["1"]
    assert parent.data.params["seed"] == "3"
    assert parent.data.params["train.batch_size"] == "14"
    assert not [key for key in parent.data.params if key.startswith("mlflow")]
    assert parent.data.tags["version.ray"] == ray.__version__
    assert parent.inputs.dataset_inputs[0].dataset.name == "xnli"
    for child in (untouched, trial):
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert trial.data.params == {
        "learning_rate": "1e-07",
        "log10_learning_rate": "-7.000",
        "freeze": "embeddings",
        "batch_size": "14",
        "steps": "8",
        "loss": "triplet_margin",
        "margin": "0.1",
        "temperature": "0.05",
        "warmup_steps": "0",
        "weight_decay": "0.0",
        "gradient_accumulation_steps": "1",
        "mixed_precision": "no",
        "dropout": "False",
        "evaluations": "2",
    }
    assert untouched.data.params == {}
    assert (untouched.info.status, trial.info.status) == ("FINISHED", "RUNNING")
    assert trial.data.metrics == {"gain": 1.0, "constraint": -0.5}  # what is not finite is left out


def test_names_and_tags_are_the_stored_ones(store: TrialStore) -> None:
    """MLflow's names do not change without a reader for the old ones."""
    open_runs(store).sync()
    runs = tracked.runs(store.sweep)
    assert {key: run.info.run_name for key, run in runs.items()} == {
        "parent": "s",
        "0": "untouched",
        "1": "1: rate 1e-07, freeze embeddings",
    }
    for key, run in runs.items():
        assert run.data.tags["sweep.id"] == store.id
        assert run.data.tags["sweep.folder"] == str(store.folder.path)
        assert run.data.tags["sweep.role"] == ("sweep" if key == "parent" else "trial")
    assert runs["parent"].data.tags["sweep.name"] == "s"
    assert (runs["1"].data.tags["sweep.state"], runs["1"].data.tags["sweep.points"]) == ("running", "1")


@pytest.mark.parametrize(
    ("state", "status"),
    [("complete", "FINISHED"), ("stopped", "KILLED"), ("diverged", "FAILED"), ("crashed", "FAILED")],
)
def test_every_end_has_its_status(store: TrialStore, state: State, status: str) -> None:
    ours = open_runs(store)
    ours.sync()
    store.put(dataclasses.replace(store.records[1], state=state, reason="why", finished=120.0, points=points(2)))
    ours.sync()
    run = tracked.runs(store.sweep)["1"]
    assert (run.info.status, run.info.end_time) == (status, 120_000)
    assert run.data.tags["sweep.reason"] == "why"
    assert history(store, 1) == [(4, 1.0), (8, 2.0)]


def test_a_failed_trial_is_infeasible_after_its_last_point(store: TrialStore) -> None:
    store.put(dataclasses.replace(store.records[1], state="crashed", finished=120.0))
    open_runs(store).sync()
    assert history(store, 1, "constraint") == [(4, -0.5), (5, 1000.0)]
    assert history(store, 1, "feasible") == [(5, 0.0)]


def test_what_a_trial_can_hand_over_is_told(store: TrialStore) -> None:
    part = Candidate(0.5, {"gain": 2.0, "constraint": -0.25}, "neutral/de/en")
    repeats = ({"gain": 1.0, "constraint": -0.5}, {"gain": 3.0, "constraint": 0.5})
    measured = (Evaluation(8, 108.0, {"gain": 4.0, "constraint": 0.75}),)
    changes: dict[str, Any] = {"state": "complete", "finished": 110.0, "points": measured, "scaled": (part,)}
    store.put(
        dataclasses.replace(
            store.records[1],
            **changes,
            confirmations=checked({"gain": 1.5, "constraint": -0.125}, 0.5),
            repeats=repeats,
        )
    )
    open_runs(store).sync()
    assert tracked.runs(store.sweep)["1"].data.metrics == {
        "gain": 4.0,
        "constraint": 0.75,
        "confirmation/passed": 1.0,
        "candidate/scale": 0.5,
        "candidate/gain": 2.0,
        "candidate/constraint": -0.25,
        "confirmation/gain": 1.5,
        "confirmation/constraint": -0.125,
        "repeats/feasible_share": 0.5,
        "repeats/gain_mean": 2.0,
        "repeats/gain_sd": pytest.approx(2.0**0.5),
    }


def test_syncing_again_adds_nothing(store: TrialStore) -> None:
    ours = open_runs(store)
    for _ in range(3):
        ours.sync()
    open_runs(store).sync()  # another process
    assert set(tracked.runs(store.sweep)) == {"parent", "0", "1"}
    assert history(store, 1) == [(4, 1.0)]


def test_a_trial_that_lost_its_checkpoint_is_not_told_twice(store: TrialStore) -> None:
    ours = open_runs(store)
    for later, count in enumerate((2, 1, 2, 3)):  # it starts over, and comes to the same numbers at other times
        again = tuple(dataclasses.replace(point, time=point.time + 10 * later) for point in points(count))
        store.put(dataclasses.replace(store.records[1], points=again))
        ours.sync()
    assert history(store, 1) == [(4, 1.0), (8, 2.0), (12, 3.0)]


def test_more_metrics_than_a_request_takes_arrive(store: TrialStore) -> None:
    metrics = {f"improvement/xnli/{i:03d}": float(i) for i in range(700)}
    measured = tuple(Evaluation(4 * i, 100.0 + i, metrics) for i in (1, 2, 3))
    store.put(dataclasses.replace(store.records[1], points=measured))
    open_runs(store).sync()
    assert tracked.runs(store.sweep)["1"].data.metrics == metrics
    for name in ("improvement/xnli/000", "improvement/xnli/350", "improvement/xnli/699"):
        assert history(store, 1, name) == [(step, metrics[name]) for step in (4, 8, 12)]


def test_an_ended_run_of_the_sweep_leaves_nothing_running_and_a_resume_reopens(store: TrialStore) -> None:
    first = open_runs(store)
    first.sync(ending=True)
    first.close("KILLED")
    assert {key: run.info.status for key, run in tracked.runs(store.sweep).items()} == {
        "parent": "KILLED",
        "0": "FINISHED",
        "1": "KILLED",
    }
    second = open_runs(store)
    second.sync()
    runs = tracked.runs(store.sweep)
    assert runs["parent"].info.status == runs["1"].info.status == "RUNNING"
    store.put(dataclasses.replace(store.records[1], points=points(3), state="complete", finished=130.0))
    second.sync(ending=True)
    second.close("FINISHED")
    assert {run.info.status for run in tracked.runs(store.sweep).values()} == {"FINISHED"}
    assert history(store, 1) == [(4, 1.0), (8, 2.0), (12, 3.0)]


def test_the_parent_follows_the_best_feasible_gain(store: TrialStore) -> None:
    ours = open_runs(store)
    for number, gain, constraint in ((2, 3.0, -0.1), (3, 9.0, 0.2), (4, 5.0, -0.2)):
        metrics = {"gain": gain, "constraint": constraint}
        ended = 100.0 + number
        store.put(TrialRecord(number, {}, "complete", "", 100.0, ended, (Evaluation(8, ended, metrics),)))
        ours.sync()
    parent = tracked.runs(store.sweep)["parent"].info.run_id
    logged = client(store).get_metric_history(parent, "best_feasible_gain")
    assert [(metric.step, metric.value) for metric in logged] == [(2, 3.0), (3, 3.0), (4, 5.0)]


def test_artifacts_lie_as_in_the_sweeps_folder_and_the_report_is_linked(store: TrialStore) -> None:
    ours = open_runs(store)
    ours.sync()
    page, figure = store.folder.report, store.folder.figures / "curves.png"
    figure.parent.mkdir()
    for path in (page, figure):
        path.write_text("<p>")
    ours.log_artifacts([page, figure])
    parent = tracked.runs(store.sweep)["parent"]
    artifacts = {artifact.path for artifact in client(store).list_artifacts(parent.info.run_id)}
    assert {"report.html", "figures", "sweep.json"} <= artifacts
    figures = [artifact.path for artifact in client(store).list_artifacts(parent.info.run_id, "figures")]
    assert figures == ["figures/curves.png"]
    note = parent.data.tags["mlflow.note.content"]
    assert note.endswith(f"/runs/{parent.info.run_id}/artifacts/report.html)")


def test_artifacts_lie_beside_the_database(store: TrialStore, tmp_path: Path) -> None:
    open_runs(store).sync()
    parent = tracked.runs(store.sweep)["parent"]
    assert parent.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())


def test_the_summary_is_that_of_the_candidate(store: TrialStore) -> None:
    part = Candidate(0.5, {"gain": 2.0, "constraint": -0.25}, "neutral/de/en")
    measured = (Evaluation(8, 108.0, {"gain": 4.0, "constraint": 0.75}),)
    winner = TrialRecord(
        1,
        {},
        "complete",
        points=measured,
        scaled=(part,),
        confirmations=checked({"gain": 1.5, "constraint": -0.5}, part.scale),
    )
    ours = open_runs(store)
    ours.sync()
    ours.log_summary(winner)
    parent = tracked.runs(store.sweep)["parent"].data
    assert {key: value for key, value in parent.tags.items() if key.startswith("best.")} == {
        "best.trial": "1",
        "best.scale": "0.5",
        "best.worst": "neutral/de/en",
    }
    assert parent.metrics == {
        "gain": 2.0,
        "constraint": -0.25,
        "confirmation/gain": 1.5,
        "confirmation/constraint": -0.5,
    }


def test_a_run_that_was_asked_for_twice_is_there_once(store: TrialStore) -> None:
    """MLflow's client asks twice where the answer to its first request comes too late."""
    ours = open_runs(store)
    ours.sync()
    first = tracked.runs(store.sweep)["1"]
    tags = {"sweep.id": store.id, "sweep.trial": "1", "mlflow.parentRunId": "x"}
    client(store).create_run(first.info.experiment_id, tags=tags)
    ours.sync(ending=True)
    ours.close("FINISHED")
    assert tracked.runs(store.sweep)["1"].info.run_id == first.info.run_id  # `runs` checks that there is one
