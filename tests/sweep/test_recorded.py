"""A sweep that an earlier version recorded is read, reported, exported and gone on with (see `tests/recorded`)."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

import adiabatic_ray
from adiabatic_ray import cli, config
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep import driver
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials.store import TrialStore

RECORDED = Path(__file__).parents[1] / "recorded"
TEXTS = ["who reads a book?", "кто читает книгу"]


@pytest.fixture
def folder(tmp_path: Path, pocket: Path) -> Path:
    """The recorded folder, on this machine."""
    folder = tmp_path / "runs" / "recorded"
    shutil.copytree(RECORDED / "sweep", folder)
    settings = (folder / "sweep.json").read_text()
    here = settings.replace("${ADIABATIC_POCKET}", str(pocket)).replace("${STORAGE}", str(folder.parent))
    (folder / "sweep.json").write_text(here)
    return folder


def test_it_is_read(folder: Path) -> None:
    store = TrialStore(folder)
    states = [record.state for _, record in sorted(store.records.items())]
    assert states == ["complete", "diverged", "diverged", "diverged", "complete", "complete", "running"]
    for number, record in store.records.items():
        stored = json.loads((folder / "trials" / f"{number:04d}" / "trial.json").read_text())
        assert [dict(point.metrics) for point in record.points] == [point["metrics"] for point in stored["points"]]
        assert dict(record.confirmation) == stored["confirmation"]
    assert store.sweep.search.space["learning_rate"] == config.Range(low=5e-5, high=4e-3, log=True)
    settings = json.loads((folder / "sweep.json").read_text())["settings"]
    added = [line.partition(":")[0] for line in config.differences(settings, config.resolved(store.sweep))]
    later = ["constraint.guards", "evaluate.exact", "model.trust_remote_code", "search.candidates", "search.soup"]
    assert sorted(added) == later  # keys of later versions
    assert store.sweep.search.candidates == "whole"
    result = adiabatic_ray.open_sweep(folder)
    assert result.best is not None
    assert result.best.number == 4
    later = ["confirmation_bound", "confirmation_bound_language"]
    written = pd.read_csv(io.StringIO(result.trials.drop(columns=later).to_csv(index=False)))
    pd.testing.assert_frame_equal(written, pd.read_csv(folder / "leaderboard.csv"))


def test_it_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [cli.main([command, str(folder)]) for command in ("report", "leaderboard", "status")] == [0, 0, 0]
    page = (folder / "report.html").read_text()
    assert "recorded: sweep report" in page
    assert (folder / "figures" / "curves.png").exists()
    assert "best: trial 4, gain +6.98%, confirmed" in capsys.readouterr().out
    assert cli.main(["leaderboard", str(folder), "--csv"]) == 0
    rows = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert cli.main(["leaderboard", str(folder), "--json"]) == 0
    assert [row["trial"] for row in json.loads(capsys.readouterr().out)] == rows["trial"].tolist()
    pd.testing.assert_frame_equal(rows, pd.read_csv(folder / "leaderboard.csv"))


def test_it_is_exported(folder: Path, encoder: Encoder, tmp_path: Path) -> None:
    assert cli.main(["export", str(folder), str(tmp_path / "out")]) == 0
    deltas = load_file(folder / "trials" / "0004" / "displacement.safetensors")
    expected = encoder.encode(TEXTS, "query", {name: encoder.parameters[name] + deltas[name] for name in deltas})
    exported = SentenceTransformer(str(tmp_path / "out" / "query_encoder"), device="cpu").encode_query(TEXTS)
    np.testing.assert_allclose(exported, expected.numpy(), atol=1e-6)
    assert not np.allclose(exported, encoder.encode(TEXTS, "query").numpy(), atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_it_goes_on(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.glob("trials/*/trial.json") if path.parent.name != "0006"}
    cut_off = TrialStore(folder)
    driver.run(cut_off.sweep, Console(quiet=True))
    assert {path: path.read_bytes() for path in before} == before
    store = TrialStore(folder)
    assert store.id == cut_off.id
    record, unbroken = store.records[6], json.loads((RECORDED / "trial_6_unbroken.json").read_text())
    assert record.state == "complete"
    assert record.points[0] == cut_off.records[6].points[0]
    assert [point.step for point in record.points] == [point["step"] for point in unbroken["points"]]
    for key, value in unbroken["points"][-1]["metrics"].items():
        if not key.startswith("time/"):
            assert record.metrics[key] == pytest.approx(value, rel=1e-3, abs=1e-6), key
    assert SentenceTransformer(str(folder / "best" / "query_encoder"), device="cpu").encode_query(TEXTS).shape == (
        2,
        96,
    )
