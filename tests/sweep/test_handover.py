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

from adiabatic_ray import cli, config, errors, sweep_file
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.report import tracking
from adiabatic_ray.report.ledger import Candidate, Ledger, Point, Record
from adiabatic_ray.sweep import found, handover

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


def trial(number: int, gain: float, constraint: float, **rest: Any) -> Record:
    points = (Point(8, 10.0, metrics(gain, constraint)),)
    return dataclasses.replace(Record(number, {"learning_rate": 1e-6}, "complete", points=points), **rest)


@pytest.fixture
def file(write_sweep: Callable[..., Path]) -> Path:
    return write_sweep()


@pytest.fixture
def ledger(file: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ledger:
    """The untouched encoder; a feasible trial, one feasible when scaled down, an infeasible one, and failures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep = sweep_file.load(file)
    ledger = Ledger.create(Path(sweep.storage) / sweep.name, config.resolved(sweep))
    ledger.put(trial(0, 0.0, -1.0))
    ledger.put(trial(1, 3.0, -0.5))
    part = Candidate(0.75, metrics(6.0, -0.1), "neutral/ru/de")
    ledger.put(trial(2, 9.0, 0.4, worst="neutral/ru/en", scaled=(part,), confirmation=metrics(5.0, -0.2)))
    ledger.put(trial(3, 20.0, 0.7, worst="contradiction/fr/en"))
    ledger.put(Record(4, {}, "crashed", "RuntimeError: no memory"))
    ledger.put(trial(5, 4.0, -0.4))  # its displacement was not kept
    ledger.put(trial(6, 5.0, -0.4, confirmation=metrics(1.0, 0.3)))
    for number in (1, 2, 3, 6):
        deltas = {name: torch.full_like(encoder.parameters[name], 0.01 * number) for name in NAMES}
        checkpoint.save(ledger.trial_folder(number) / "displacement.safetensors", Checkpoint(deltas, {"step": 8}))
    return ledger


def export(*arguments: object) -> int:
    return cli.main(["export", *map(str, arguments)])


def moved(encoder: Any, amount: float) -> np.ndarray[Any, Any]:
    """What the encoder with these parameters shifted makes of the texts as queries."""
    weights = {name: encoder.parameters[name] + amount for name in NAMES}
    return encoder.encode(TEXTS, "query", weights).numpy()  # type: ignore[no-any-return]


def check(out: Path, expected: np.ndarray[Any, Any]) -> None:
    for name in ("query_encoder", "retrieval_model"):
        loaded = SentenceTransformer(str(out / name), device="cpu")
        np.testing.assert_allclose(loaded.encode_query(TEXTS), expected, atol=1e-5)
        assert (out / name / "README.md").read_text().startswith("---\nlibrary_name: sentence-transformers\n")


def test_the_best_goes_out_by_folder_and_by_file(
    ledger: Ledger, file: Path, encoder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = moved(encoder, 0.75 * 0.02)  # trial 2 scaled down, the best that was confirmed
    assert export(ledger.folder, tmp_path / "deep" / "out") == 0
    assert f"query encoder of trial 2: {tmp_path / 'deep' / 'out' / 'query_encoder'}" in capsys.readouterr().out
    check(tmp_path / "deep" / "out", expected)
    assert export(file, tmp_path / "by-file") == 0
    check(tmp_path / "by-file", expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["by-file", "deep", "runs", "small.yaml"]
    base = SentenceTransformer(ledger.settings["model"]["name"], device="cpu").encode_document(TEXTS)
    both = SentenceTransformer(str(tmp_path / "by-file" / "retrieval_model"), device="cpu").encode_document(TEXTS)
    assert both.tobytes() == base.tobytes()


def test_a_trial_by_its_folder_and_an_earlier_export_is_replaced(ledger: Ledger, encoder: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # empty: free to use
    assert export(ledger.trial_folder(1), out) == 0
    check(out, moved(encoder, 0.01))
    assert "NOT CONFIRMED" in (out / "query_encoder" / "README.md").read_text()
    assert export(ledger.folder, out, "--trial", 3, "--force") == 0
    check(out, moved(encoder, 0.03))
    assert "INFEASIBLE, EXPORTED BY FORCE" in (out / "retrieval_model" / "README.md").read_text()
    assert json.loads((out / "trial.json").read_text())["number"] == 3
    (out / "notes.txt").write_text("mine")
    assert export(ledger.folder, out) == 1
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
    ledger: Ledger, tmp_path: Path, arguments: list[Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(ledger.folder, tmp_path / "out", *arguments) == 1
    capture = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(capture)
    assert capture.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_damaged_displacement_and_one_of_another_model(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ledger.trial_folder(1) / "displacement.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert export(ledger.folder, tmp_path / "out", "--trial", 1) == 1
    assert "is missing or damaged" in capsys.readouterr().err
    checkpoint.save(path, Checkpoint({NAMES[0]: torch.zeros(3, 3)}, {}))
    assert export(ledger.folder, tmp_path / "out", "--trial", 1) == 1
    assert f"moves `{NAMES[0]}`, which the model has in another shape" in capsys.readouterr().err
    assert export(ledger.trial_folder(1), tmp_path / "out", "--trial", 2) == 1
    assert "is trial 1, but --trial says 2" in capsys.readouterr().err


def test_nothing_feasible_names_the_nearest_and_the_way_out(
    ledger: Ledger, encoder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 5, 6):
        (ledger.trial_folder(number) / "trial.json").unlink()
    assert export(ledger.folder, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "no trial of" in said
    assert "the nearest is trial 3, which is infeasible: its constraint is +0.70" in said
    assert "its worst pair contradiction/fr/en" in said
    assert "--force" in said
    assert export(ledger.folder, tmp_path / "out", "--force") == 0
    check(tmp_path / "out", moved(encoder, 0.03))
    (ledger.trial_folder(3) / "displacement.safetensors").unlink()
    assert export(ledger.folder, tmp_path / "other") == 1
    assert "--force" not in capsys.readouterr().err  # it could not


def test_an_output_that_is_something_else_is_left_alone(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert export(ledger.folder, tmp_path / "file") == 1
    assert "is a file" in capsys.readouterr().err
    assert export(ledger.folder, ledger.folder) == 1
    assert "is not empty and not only an earlier export" in capsys.readouterr().err
    assert (ledger.folder / "sweep.json").exists()


def test_runs_of_mlflow_are_found(
    ledger: Ledger, tmp_path: Path, encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = tracking.default_uri(tmp_path / "runs")
    tracking.Mirror(ledger, uri, "tests").sync()
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests")
    ids = {run.data.tags.get("sweep.trial"): run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert export(ids["1"], tmp_path / "one") == 0
    check(tmp_path / "one", moved(encoder, 0.01))
    assert export(ids[None], tmp_path / "best") == 0
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


# ---- finding sweeps ----


def test_sweeps_that_are_not_there(ledger: Ledger, file: Path, write_sweep: Callable[..., Path]) -> None:
    with pytest.raises(errors.SweepError, match=r"smal is no sweep: .* holds `small` \(did you mean `small`\?\)"):
        found.find(str(ledger.folder.parent / "smal"))
    with pytest.raises(errors.SweepError, match=r"smal is no sweep: .*runs holds `small` \(did you mean"):
        found.find("smal")  # in the working directory's ./runs
    assert found.find(str(ledger.folder)).id == found.find(str(file)).id == ledger.id
    with pytest.raises(errors.SweepError, match=r"has not been run: .*smaller/sweep.json.* adiabatic-ray sweep "):
        found.find(str(write_sweep({"name": "smaller"})))
    (ledger.folder / "sweep.json").write_text('{"id": "x", ')
    with pytest.raises(errors.SweepError, match=r"sweep.json is damaged"):
        found.find(str(ledger.folder))
