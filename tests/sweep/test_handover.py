"""`adiabatic-ray export`, on a sweep's folder made by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from adiabatic_ray import cli, errors, sweep_file
from adiabatic_ray.model import checkpoint, low_rank
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.model.displacement import moved as displaced
from adiabatic_ray.model.displacement import trained
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep import handover
from adiabatic_ray.sweep.cluster.resources import Plan
from adiabatic_ray.sweep.workers.encoder_tasks import EncoderTasks
from adiabatic_ray.tracking.runs import MlflowRuns
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import Candidate, Evaluation, TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests import tracked
from tests.records import checked

PLAN = Plan(cpus=1, gpus=0, concurrent=1, workers=1, fitting=1, filling_cpus=1)
TEXTS = ["who reads a book?", "кто читает книгу"]
NAMES = ["encoder.layer.1.output.dense.weight", "encoder.layer.0.attention.self.query.bias"]


def metrics(gain: float, constraint: float) -> dict[str, float]:
    return {
        "gain": gain,
        "p_value": 0.01,
        "constraint": constraint,
        "pnd/questions": 5.0,
        "improvement/questions": gain,
    }


def trial(number: int, gain: float, constraint: float, **rest: Any) -> TrialRecord:
    points = (Evaluation(8, 10.0, metrics(gain, constraint)),)
    return dataclasses.replace(TrialRecord(number, {"learning_rate": 1e-6}, "complete", points=points), **rest)


@pytest.fixture
def file(write_sweep: Callable[..., Path]) -> Path:
    return write_sweep()


@pytest.fixture
def store(file: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TrialStore:
    """The untouched encoder; a feasible trial, one feasible when scaled down, an infeasible one, and failures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep = sweep_file.load(file)
    store = TrialStore.create(StorageFolder.at(sweep.storage).sweep(sweep.name).path, sweep)
    store.put(trial(0, 0.0, -1.0))
    store.put(trial(1, 3.0, -0.5))
    part = Candidate(0.75, metrics(6.0, -0.1), "neutral/ru/de")
    store.put(
        trial(2, 9.0, 0.4, worst="neutral/ru/en", scaled=(part,), confirmations=checked(metrics(5.0, -0.2), part.scale))
    )
    store.put(trial(3, 20.0, 0.7, worst="contradiction/fr/en"))
    store.put(TrialRecord(4, {}, "crashed", "RuntimeError: no memory"))
    store.put(trial(5, 4.0, -0.4))  # its displacement was not kept
    store.put(trial(6, 5.0, -0.4, confirmations=checked(metrics(1.0, 0.3))))
    for number in (1, 2, 3, 6):
        deltas = {name: torch.full_like(encoder.parameters[name], 0.01 * number) for name in NAMES}
        checkpoint.save(store.folder.trial(number).displacement, Checkpoint(deltas, {"step": 8}))
    return store


def export(*arguments: object) -> int:
    return cli.main(["export", *map(str, arguments)])


def moved(encoder: Encoder, amount: float) -> np.ndarray[Any, Any]:
    """What the encoder with these parameters shifted makes of the texts as queries."""
    weights = {name: encoder.parameters[name] + amount for name in NAMES}
    return encoder.encode(TEXTS, "query", weights).numpy()


def check(out: Path, expected: np.ndarray[Any, Any]) -> None:
    for name in ("query_encoder", "retrieval_model"):
        loaded = SentenceTransformer(str(out / name), device="cpu")
        np.testing.assert_allclose(loaded.encode_query(TEXTS), expected, atol=1e-5)
        assert (out / name / "README.md").read_text().startswith("---\nlibrary_name: sentence-transformers\n")


def test_the_best_goes_out_by_folder_and_by_file(
    store: TrialStore, file: Path, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = moved(encoder, 0.75 * 0.02)  # trial 2 scaled down, the best that was confirmed
    assert export(store.folder.path, tmp_path / "deep" / "out") == 0
    assert f"query encoder of trial 2: {tmp_path / 'deep' / 'out' / 'query_encoder'}" in capsys.readouterr().out
    check(tmp_path / "deep" / "out", expected)
    assert export(file, tmp_path / "by-file") == 0
    check(tmp_path / "by-file", expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["by-file", "deep", "runs", "small.yaml"]
    base = SentenceTransformer(store.sweep.model.name, device="cpu").encode_document(TEXTS)
    both = SentenceTransformer(str(tmp_path / "by-file" / "retrieval_model"), device="cpu").encode_document(TEXTS)
    assert both.tobytes() == base.tobytes()


def test_low_rank_goes_out_as_an_adapter_too(
    store: TrialStore, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = trained(encoder, "embeddings", 2)
    factors = low_rank.factors({name: encoder.parameters[name] for name in names}, 2, seed=0)
    factors = {name: torch.full_like(f, 0.05) if name.endswith(low_rank.B) else f for name, f in factors.items()}
    trial = store.folder.trial(2)
    checkpoint.save(trial.displacement, Checkpoint(factors, {"step": 8}))
    store.put(dataclasses.replace(store.records[2], config={"learning_rate": 1e-3, "rank": 2}))
    out = tmp_path / "out"
    assert export(store.folder.path, out) == 0
    assert f"adapter for the untouched encoder: {out / 'query_adapter'}" in capsys.readouterr().out
    expected = encoder.encode(TEXTS, "query", displaced(encoder.parameters, factors, 0.75)).numpy()
    check(out, expected)
    adapted = SentenceTransformer(store.sweep.model.name, device="cpu")
    adapted.load_adapter(str(out / "query_adapter"))
    np.testing.assert_allclose(adapted.encode_query(TEXTS), expected, atol=1e-5)
    card = (out / "query_adapter" / "README.md").read_text()
    assert 'encoder.load_adapter("query_adapter")' in card
    assert "The displacement has rank 2" in card
    assert export(store.folder.path, out, "--trial", 1) == 0  # over it, and without an adapter
    assert not (out / "query_adapter").exists()
    assert "adapter" not in (out / "query_encoder" / "README.md").read_text()
    wrong = {name: torch.zeros(3, 3) for name in factors}
    checkpoint.save(trial.displacement, Checkpoint(wrong, {"step": 8}))
    assert export(store.folder.path, tmp_path / "other") == 1
    assert "which the model has in another shape" in capsys.readouterr().err


def test_a_trial_by_its_folder_and_an_earlier_export_is_replaced(
    store: TrialStore, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()  # empty: free to use
    assert export(store.folder.trial(1).path, out) == 0
    check(out, moved(encoder, 0.01))
    assert "NOT CONFIRMED" in (out / "query_encoder" / "README.md").read_text()
    assert export(store.folder.path, out, "--trial", 3, "--force") == 0
    check(out, moved(encoder, 0.03))
    assert "INFEASIBLE, EXPORTED BY FORCE" in (out / "retrieval_model" / "README.md").read_text()
    assert json.loads((out / "trial.json").read_text())["number"] == 3
    (out / "notes.txt").write_text("mine")
    assert export(store.folder.path, out) == 1
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trial", 3], r"trial 3, which is infeasible: its constraint is \+0.70 .*contradiction/fr/en.*--force"),
        (["--trial", 6], r"trial 6, which was refuted on the confirmation sets: its constraint there is \+0.30"),
        (["--trial", 9], r"has no trial 9; it has 1, 2, 3, 4, 5, 6 beside the untouched encoder"),
        (["--trial", 0], r"trial 0 is the untouched encoder"),
        (["--trial", 4, "--force"], r"trial 4 ended as crashed: RuntimeError: no memory; .*: 1, 2, 3, 5, 6"),
        (["--trial", 5], r"displacement.safetensors is missing or damaged"),
    ],
)
def test_trials_that_cannot_go_out(
    store: TrialStore, tmp_path: Path, arguments: list[Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(store.folder.path, tmp_path / "out", *arguments) == 1
    capture = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(capture)
    assert capture.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_damaged_displacement_and_one_of_another_model(
    store: TrialStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.folder.trial(1).displacement
    path.write_bytes(path.read_bytes()[:1000])
    assert export(store.folder.path, tmp_path / "out", "--trial", 1) == 1
    assert "is missing or damaged" in capsys.readouterr().err
    checkpoint.save(path, Checkpoint({NAMES[0]: torch.zeros(3, 3)}, {}))
    assert export(store.folder.path, tmp_path / "out", "--trial", 1) == 1
    assert f"moves `{NAMES[0]}`, which the model has in another shape" in capsys.readouterr().err
    assert export(store.folder.trial(1).path, tmp_path / "out", "--trial", 2) == 1
    assert "is trial 1, but --trial says 2" in capsys.readouterr().err


def test_nothing_feasible_names_the_nearest_and_the_way_out(
    store: TrialStore, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 5, 6):
        store.folder.trial(number).record.unlink()
    assert export(store.folder.path, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "no trial of" in said
    assert "the nearest is trial 3, which is infeasible: its constraint is +0.70" in said
    assert "its worst pair contradiction/fr/en" in said
    assert "--force" in said
    assert export(store.folder.path, tmp_path / "out", "--force") == 0
    check(tmp_path / "out", moved(encoder, 0.03))
    store.folder.trial(3).displacement.unlink()
    assert export(store.folder.path, tmp_path / "other") == 1
    assert "--force" not in capsys.readouterr().err  # it could not


def test_an_output_that_is_something_else_is_left_alone(
    store: TrialStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert export(store.folder.path, tmp_path / "file") == 1
    assert "is a file" in capsys.readouterr().err
    assert export(store.folder.path, store.folder.path) == 1
    assert "is not empty and not only an earlier export" in capsys.readouterr().err
    assert store.folder.settings.exists()


def test_runs_of_mlflow_are_found(
    store: TrialStore, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = tracked.default_uri(store.sweep)
    MlflowRuns(store, uri, store.sweep.mlflow.experiment).sync()
    client = mlflow.MlflowClient(uri)
    ids = {number: run.info.run_id for number, run in tracked.runs(store.sweep).items()}
    assert export(ids["1"], tmp_path / "one") == 0
    check(tmp_path / "one", moved(encoder, 0.01))
    assert export(ids["parent"], tmp_path / "best") == 0
    check(tmp_path / "best", moved(encoder, 0.75 * 0.02))

    assert export("0" * 32, tmp_path / "out") == 1
    assert f"gives no run {'0' * 32}" in capsys.readouterr().err
    client.set_tag(ids["1"], "sweep.folder", str(tmp_path / "gone"))
    assert export(ids["1"], tmp_path / "out") == 1
    assert "which is not on this machine" in capsys.readouterr().err
    client.delete_tag(ids["1"], "sweep.folder")
    assert export(ids["1"], tmp_path / "out") == 1
    assert "no tag `sweep.folder`" in capsys.readouterr().err


def test_a_run_without_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(errors.SweepError, match="there is no store at sqlite:"):
        handover.write_out("a" * 32, tmp_path / "out", None, force=False)
    assert list(tmp_path.iterdir()) == []  # looking made none


def test_the_sweeps_own_folder_holds_the_winner_with_all_that_is_known_of_it(
    store: TrialStore, encoder: Encoder
) -> None:
    tasks = EncoderTasks(store.sweep.model, PLAN, here=True)
    winner = store.records[1]
    assert not handover.holds(store, winner)
    handover.replace(store, winner, tasks)
    assert handover.holds(store, winner)
    check(store.folder.best.path, moved(encoder, 0.01))
    confirmed = dataclasses.replace(winner, confirmations=checked(metrics(2.0, -0.1)))
    assert not handover.holds(store, confirmed)  # its card would say that it was not confirmed
    handover.replace(store, store.records[2], tasks)
    assert [handover.holds(store, store.records[number]) for number in (1, 2)] == [False, True]
    check(store.folder.best.path, moved(encoder, 0.75 * 0.02))
