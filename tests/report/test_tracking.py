"""MLflow, a real store: one parent a sweep, one child a trial, whatever happens in between."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from adiabatic_ray.report import tracking
from adiabatic_ray.report.ledger import Ledger, Point, Record
from tests import mlflow_server

SETTINGS = {
    "name": "s",
    "seed": 3,
    "train": {"data": {"path": "x"}, "learning_rate": 2e-8, "batch_size": 14, "steps": 8, "epochs": None},
}


def points(count: int) -> tuple[Point, ...]:
    return tuple(
        Point(4 * i, 100.0 + i, {"gain": float(i), "constraint": -0.5, "bad": math.nan}) for i in range(1, count + 1)
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.create(tmp_path / "s", SETTINGS)
    ledger.put(Record(0, {}, "complete", "", 90.0, 90.0, (Point(0, 90.0, {"gain": 0.0, "constraint": -1.0}),)))
    ledger.put(Record(1, {"learning_rate": 1e-7, "freeze": "embeddings"}, "running", "", 100.0, None, points(1)))
    return ledger


def mirror(ledger: Ledger, uri: str | None = None) -> tracking.Mirror:
    datasets = [{"name": "xnli", "context": "selection", "digest": "abc", "path": "org/xnli", "profile": '{"rows": 3}'}]
    return tracking.Mirror(ledger, uri or tracking.default_uri(ledger.folder.parent), "tests", datasets)


def runs(ledger: Ledger, uri: str | None = None) -> dict[str, Any]:
    """All runs of the experiment by trial number; the parent under `parent`."""
    client = mlflow.MlflowClient(uri or tracking.default_uri(ledger.folder.parent))
    experiment = client.get_experiment_by_name("tests")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    by_number = {run.data.tags.get("sweep.trial", "parent"): run for run in found}
    assert len(by_number) == len(found), "two runs for one trial"
    return by_number


def history(ledger: Ledger, number: int, metric: str = "gain") -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(tracking.default_uri(ledger.folder.parent))
    found = client.get_metric_history(runs(ledger)[str(number)].info.run_id, metric)
    return [(m.step, m.value) for m in found]


def test_a_sweep_is_a_parent_and_a_trial_a_child(ledger: Ledger) -> None:
    mirror(ledger).sync()
    found = runs(ledger)
    assert set(found) == {"parent", "0", "1"}
    parent, untouched, trial = found["parent"], found["0"], found["1"]
    assert parent.data.params["seed"] == "3"
    assert parent.data.params["train.batch_size"] == "14"
    assert parent.data.tags["version.ray"] == __import__("ray").__version__
    assert parent.inputs.dataset_inputs[0].dataset.name == "xnli"
    for child in (untouched, trial):
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert trial.data.params == {
        "learning_rate": "1e-07",
        "log10_learning_rate": "-7.000",
        "freeze": "embeddings",
        "batch_size": "14",
        "steps": "8",
    }
    assert (untouched.info.status, trial.info.status) == ("FINISHED", "RUNNING")
    assert trial.data.metrics == {"gain": 1.0, "constraint": -0.5}  # what is not finite is left out


@pytest.mark.parametrize(
    ("state", "status"),
    [("complete", "FINISHED"), ("stopped", "KILLED"), ("diverged", "FAILED"), ("crashed", "FAILED")],
)
def test_every_end_has_its_status(ledger: Ledger, state: Any, status: str) -> None:
    ours = mirror(ledger)
    ours.sync()
    ledger.put(dataclasses.replace(ledger.records[1], state=state, reason="why", finished=120.0, points=points(2)))
    ours.sync()
    run = runs(ledger)["1"]
    assert (run.info.status, run.info.end_time) == (status, 120_000)
    assert run.data.tags["sweep.reason"] == "why"
    assert history(ledger, 1) == [(4, 1.0), (8, 2.0)]


def test_syncing_again_adds_nothing(ledger: Ledger) -> None:
    ours = mirror(ledger)
    for _ in range(3):
        ours.sync()
    mirror(ledger).sync()  # another process
    assert set(runs(ledger)) == {"parent", "0", "1"}
    assert history(ledger, 1) == [(4, 1.0)]


def test_a_trial_that_lost_its_checkpoint_is_not_told_twice(ledger: Ledger) -> None:
    ours = mirror(ledger)
    for later, count in enumerate((2, 1, 2, 3)):  # from its start again, to the same numbers at other times
        again = tuple(dataclasses.replace(point, time=point.time + 10 * later) for point in points(count))
        ledger.put(dataclasses.replace(ledger.records[1], points=again))
        ours.sync()
    assert history(ledger, 1) == [(4, 1.0), (8, 2.0), (12, 3.0)]


def test_an_ended_run_of_the_sweep_leaves_nothing_running_and_a_resume_reopens(ledger: Ledger) -> None:
    first = mirror(ledger)
    first.sync(ending=True)
    first.close("KILLED")
    assert {key: run.info.status for key, run in runs(ledger).items()} == {
        "parent": "KILLED",
        "0": "FINISHED",
        "1": "KILLED",
    }
    second = mirror(ledger)
    second.sync()
    assert runs(ledger)["parent"].info.status == runs(ledger)["1"].info.status == "RUNNING"
    ledger.put(dataclasses.replace(ledger.records[1], points=points(3), state="complete", finished=130.0))
    second.sync(ending=True)
    second.close("FINISHED")
    assert {run.info.status for run in runs(ledger).values()} == {"FINISHED"}
    assert history(ledger, 1) == [(4, 1.0), (8, 2.0), (12, 3.0)]


def test_the_parent_follows_the_best_feasible_gain(ledger: Ledger) -> None:
    ours = mirror(ledger)
    for number, gain, constraint in ((2, 3.0, -0.1), (3, 9.0, 0.2), (4, 5.0, -0.2)):
        metrics = {"gain": gain, "constraint": constraint}
        ended = 100.0 + number
        ledger.put(Record(number, {}, "complete", "", 100.0, ended, (Point(8, ended, metrics),)))
        ours.sync()
    client = mlflow.MlflowClient(tracking.default_uri(ledger.folder.parent))
    found = client.get_metric_history(runs(ledger)["parent"].info.run_id, "best_feasible_gain")
    assert [(m.step, m.value) for m in found] == [(2, 3.0), (3, 3.0), (4, 5.0)]


def test_artifacts_and_model(ledger: Ledger, pocket: Path) -> None:
    ours = mirror(ledger)
    ours.sync()
    page, figure = ledger.folder / "report.html", ledger.folder / "figures" / "curves.png"
    figure.parent.mkdir()
    for path in (page, figure):
        path.write_text("<p>")
    ours.log_artifacts([page, figure])
    winner = Record(1, {}, "complete", "", 100.0, 110.0, points(1))
    ours.log_model(pocket / "encoder", winner)
    ours.log_model(pocket / "encoder", winner)  # logged already
    assert "MLFLOW_TRACKING_URI" not in os.environ  # later sweeps of this process are tracked in their own stores
    uri = tracking.default_uri(ledger.folder.parent)
    client = mlflow.MlflowClient(uri, uri)
    parent = runs(ledger)["parent"].info.run_id
    assert {"report.html", "figures", "sweep.json"} <= {artifact.path for artifact in client.list_artifacts(parent)}
    note = client.get_run(parent).data.tags["mlflow.note.content"]
    assert note.endswith(f"/runs/{parent}/artifacts/report.html)")
    (logged,) = client.search_logged_models([client.get_run(parent).info.experiment_id])
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.sentence_transformers.load_model(logged.model_uri)
    assert loaded.encode("who reads a book?").shape == (96,)
    signature = mlflow.models.get_model_info(logged.model_uri).signature
    assert signature.outputs.inputs[0].shape == (-1, 96)
    (version,) = client.search_model_versions("name = 's-query-encoder'")
    assert version.run_id == parent
    assert version.tags["sweep.trial"] == "1"
    assert version.tags["sweep.run"] == runs(ledger)["1"].info.run_id
    assert client.get_registered_model("s-query-encoder").aliases == {}  # nobody confirmed it


def test_a_run_that_was_asked_for_twice_is_there_once(ledger: Ledger) -> None:
    """As MLflow's client does where the answer to its first request came too late."""
    ours = mirror(ledger)
    ours.sync()
    client = mlflow.MlflowClient(tracking.default_uri(ledger.folder.parent))
    first = runs(ledger)["1"]
    client.create_run(
        first.info.experiment_id, tags={"sweep.id": ledger.id, "sweep.trial": "1", "mlflow.parentRunId": "x"}
    )
    ours.sync(ending=True)
    ours.close("FINISHED")
    assert runs(ledger)["1"].info.run_id == first.info.run_id  # `runs` sees to it that there is one


def test_what_names_the_winner_goes_with_it(ledger: Ledger) -> None:
    ours = mirror(ledger)
    ours.sync()
    ours.log_summary({"gain": 2.0}, {"best.trial": "1", "best.scale": "1", "best.worst": "neutral/de/en"})
    assert runs(ledger)["parent"].data.tags["best.trial"] == "1"
    ours.drop_champion()
    assert not [key for key in runs(ledger)["parent"].data.tags if key.startswith("best.")]


def test_the_champion_is_confirmed_or_there_is_none(ledger: Ledger, pocket: Path) -> None:
    ours = mirror(ledger)
    ours.sync()
    uri = tracking.default_uri(ledger.folder.parent)
    client = mlflow.MlflowClient(uri, uri)
    ours.drop_champion()  # before anything was registered: nothing to do

    def champion() -> str | None:
        found = client.get_registered_model("s-query-encoder").aliases.get("champion")
        return None if found is None else client.get_model_version("s-query-encoder", str(found)).tags["sweep.trial"]

    def winner(number: int, constraint: float | None) -> Record:
        confirmation = {} if constraint is None else {"constraint": constraint, "gain": 1.0}
        return Record(number, {}, "complete", "", 100.0, 110.0, points(1), confirmation=confirmation)

    ours.log_model(pocket / "encoder", winner(1, -0.5))
    assert champion() == "1"
    ours.log_model(pocket / "encoder", winner(2, -0.1))
    assert champion() == "2"
    assert mlflow_model_loads(uri)
    ours.log_model(pocket / "encoder", winner(3, None))  # a better one that nobody confirmed
    assert champion() is None
    ours.log_model(pocket / "encoder", winner(2, -0.1))
    assert champion() == "2"
    other = Ledger.create(ledger.folder.parent / "elsewhere", SETTINGS)  # the same name: it shares the registered model
    stranger = mirror(other, uri)
    stranger.sync()
    stranger.drop_champion()
    assert champion() == "2"
    ours.drop_champion()
    assert champion() is None


def mlflow_model_loads(uri: str) -> bool:
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    served = mlflow.pyfunc.load_model("models:/s-query-encoder@champion")
    return bool(len(served.predict(["who reads a book?"])) == 1)


# ---- an MLflow that is not there ----


def test_a_dead_server_costs_nothing_and_is_told(ledger: Ledger) -> None:
    uri = f"http://somebody:a-secret@127.0.0.1:{mlflow_server.free_port()}"
    tracker = tracking.Tracker(mirror(ledger, uri))
    started = time.monotonic()
    tracker.notify()
    assert time.monotonic() - started < 0.1
    told = tracker.finish(lambda: tracker.mirror.sync(ending=True))
    assert "Connection refused" in told
    assert "//somebody:***@127.0.0.1" in told  # MLflow's own message names the address with the password
    assert "a-secret" not in told
    assert tracker.mirror.ledger.records[1].points == points(1)
    later = mirror(ledger)  # the next run of the sweep, whose MLflow is there
    later.sync()
    assert history(ledger, 1) == [(4, 1.0)]


@pytest.mark.slow
def test_what_happened_while_the_server_was_down_arrives_later(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_AFTER_FAILURE", 0.5)
    port = mlflow_server.free_port()
    with mlflow_server.running(tmp_path / "server", port) as uri:
        tracker = tracking.Tracker(mirror(ledger, uri))
        while "1" not in (runs(ledger, uri) if tracker.mirror._parent else {}):
            time.sleep(0.2)
    ledger.put(dataclasses.replace(ledger.records[1], points=points(2)))
    tracker.notify()
    while not tracker.trouble:
        time.sleep(0.2)
    ledger.put(dataclasses.replace(ledger.records[1], points=points(3), state="complete", finished=130.0))
    ledger.put(Record(2, {}, "crashed", "lost", 100.0, 110.0))
    with mlflow_server.running(tmp_path / "server", port) as uri:
        assert tracker.finish(lambda: tracker.mirror.sync(ending=True)) == ""
        found = runs(ledger, uri)
        assert {key: run.info.status for key, run in found.items()} == {
            "parent": "RUNNING",
            "0": "FINISHED",
            "1": "FINISHED",
            "2": "FAILED",
        }
        client = mlflow.MlflowClient(uri)
        steps = [m.step for m in client.get_metric_history(found["1"].info.run_id, "gain")]
        assert steps == [4, 8, 12]
