"""The mirror costs a sweep nothing, and delivers later what it could not deliver."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from adiabatic_ray import config
from adiabatic_ray.evaluate import embedded_data
from adiabatic_ray.tracking import mirror as mirrors
from adiabatic_ray.tracking.mirror import Mirror
from adiabatic_ray.tracking.runs import MlflowRuns
from adiabatic_ray.trials.layout import ExportFolder, StorageFolder
from adiabatic_ray.trials.record import TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests import mlflow_server, tracked
from tests.records import checked, record
from tests.tracking.mirrored import DATASET, history, open_runs, points
from tests.waiting import until


class HeldRuns(MlflowRuns):
    """Runs of a store that answers only once it is `released`; `events` tells in which order things happen."""

    def __init__(self, store: TrialStore) -> None:
        super().__init__(store, tracked.default_uri(store.sweep), store.sweep.mlflow.experiment, [DATASET])
        self.events: list[str] = []
        self.released = threading.Event()

    def sync(self, *, ending: bool = False) -> None:
        self.events.append("a delivery begins")
        assert self.released.wait(60), "nobody released the store"
        super().sync(ending=ending)
        self.events.append("a delivery ends")


def test_a_slow_store_costs_the_sweep_nothing(store: TrialStore) -> None:
    runs = HeldRuns(store)
    mirror = Mirror(runs)
    until(lambda: bool(runs.events), "the first delivery")
    store.put(dataclasses.replace(store.records[1], points=points(2)))
    mirror.notify()
    runs.events.append("the sweep goes on")
    runs.released.set()
    assert mirror.finish([], None, None, "FINISHED") == ""
    assert runs.events[:3] == ["a delivery begins", "the sweep goes on", "a delivery ends"]
    assert history(store, 1) == [(4, 1.0), (8, 2.0)]
    assert tracked.statuses(store.sweep) == ["FINISHED", "FINISHED", "KILLED"]


def test_changes_arrive_while_the_sweep_runs(store: TrialStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "SECONDS_BETWEEN_SYNCS", 0.01)
    mirror = Mirror(open_runs(store))
    until(lambda: bool(mirror.runs.parent) and "1" in tracked.runs(store.sweep), "the trial's run")
    store.put(dataclasses.replace(store.records[1], points=points(2)))
    mirror.notify()
    until(lambda: history(store, 1) == [(4, 1.0), (8, 2.0)], "the second evaluation point")
    assert mirror.finish([], None, None, "FINISHED") == ""


def test_an_ending_sweep_does_not_wait_for_ever(store: TrialStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "FINAL_SECONDS", 0.01)
    runs = HeldRuns(store)
    mirror = Mirror(runs)
    until(lambda: bool(runs.events), "the first delivery")
    assert mirror.finish([], None, None, "FINISHED") == "it does not answer"
    runs.released.set()
    until(lambda: "a delivery ends" in runs.events, "the delivery that was under way")


@pytest.mark.slow
def test_a_dead_server_costs_nothing_and_is_told(store: TrialStore) -> None:
    uri = f"http://somebody:a-secret@127.0.0.1:{mlflow_server.free_port()}"
    mirror = Mirror(open_runs(store, uri))
    mirror.notify()
    told = mirror.finish([], None, None, "FINISHED")
    assert "Connection refused" in told
    assert "//somebody:***@127.0.0.1" in told  # MLflow's own message names the address with the password
    assert "a-secret" not in told
    assert mirror.uri == uri.replace("a-secret", "***")
    assert mirror.runs.store.records[1].points == points(1)
    later = open_runs(store)  # the next run of the sweep, whose MLflow is there
    later.sync()
    assert history(store, 1) == [(4, 1.0)]


def test_the_end_of_a_sweep_is_delivered(store: TrialStore, pocket: Path, tmp_path: Path) -> None:
    """The report, the winner's numbers and its model, and the status of every run."""
    winner = record(2, gain=3.0, confirmations=checked({"gain": 2.0, "constraint": -0.25}))
    store.put(winner)
    store.folder.report.write_text("<p>")
    exported = ExportFolder(tmp_path / "best")
    exported.path.mkdir()
    exported.query_encoder.symlink_to(pocket / "encoder")
    mirror = Mirror(open_runs(store))
    assert mirror.finish([store.folder.report], winner, exported, "FINISHED", "guarantee: none is harmed") == ""
    runs = tracked.runs(store.sweep)
    assert {key: run.info.status for key, run in runs.items()} == {
        "parent": "FINISHED",
        "0": "FINISHED",
        "1": "KILLED",
        "2": "FINISHED",
    }
    parent = runs["parent"].data
    assert (parent.tags["best.trial"], parent.tags["best.worst"]) == ("2", "neutral/de/en")
    assert (parent.metrics["gain"], parent.metrics["confirmation/gain"]) == (3.0, 2.0)
    note = parent.tags["mlflow.note.content"]
    assert note.startswith("guarantee: none is harmed\n\n[Report of this sweep](")
    assert note.endswith("/artifacts/report.html)")
    uri = tracked.default_uri(store.sweep)
    client = mlflow.MlflowClient(uri, uri)
    champion = client.get_model_version_by_alias("s-query-encoder", "champion")
    assert champion.tags["sweep.trial"] == "2"

    again = Mirror(open_runs(store))  # a later run of the sweep, whose confirmation left no winner
    assert again.finish([], None, None, "FINISHED") == ""
    assert client.get_registered_model("s-query-encoder").aliases == {}
    assert "best.trial" not in tracked.runs(store.sweep)["parent"].data.tags


@pytest.mark.parametrize("named", [False, True], ids=["default", "named"])
def test_a_sweep_is_tracked_where_its_settings_say(
    named: bool, load_sweep: Callable[..., config.Sweep], tmp_path: Path
) -> None:
    settings = {"experiment": "tests"} | ({"uri": f"sqlite:///{tmp_path}/named.db"} if named else {})
    sweep = load_sweep({"mlflow": settings})
    store = TrialStore.create(StorageFolder.at(sweep.storage).sweep(sweep.name).path, sweep)
    mirror = Mirror.of(store, embedded_data.read(sweep))
    assert mirror.finish([], None, None, "FINISHED") == ""
    assert mirror.uri == f"sqlite:///{tmp_path}/{'named.db' if named else 'runs/mlflow.db'}"
    parent = tracked.runs(sweep, mirror.uri)["parent"]
    assert len(parent.inputs.dataset_inputs) == 5  # one to train on, two for selection, two for confirmation


@pytest.mark.slow
def test_what_happened_while_the_server_was_down_arrives_later(
    store: TrialStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "SECONDS_AFTER_FAILURE", 0.5)
    port = mlflow_server.free_port()
    with mlflow_server.running(tmp_path / "server", port) as uri:
        mirror = Mirror(open_runs(store, uri))
        until(lambda: bool(mirror.runs.parent) and "1" in tracked.runs(store.sweep, uri), "the trial's run")
    store.put(dataclasses.replace(store.records[1], points=points(2)))
    mirror.notify()
    until(lambda: bool(mirror.trouble), "the mirror to notice that the server is gone", seconds=120)
    store.put(dataclasses.replace(store.records[1], points=points(3), state="complete", finished=130.0))
    store.put(TrialRecord(2, {}, "crashed", "lost", 100.0, 110.0))
    with mlflow_server.running(tmp_path / "server", port) as uri:
        assert mirror.finish([], None, None, "KILLED") == ""
        assert {key: run.info.status for key, run in tracked.runs(store.sweep, uri).items()} == {
            "parent": "KILLED",
            "0": "FINISHED",
            "1": "FINISHED",
            "2": "FAILED",
        }
        assert [step for step, _ in history(store, 1, uri=uri)] == [4, 8, 12]
