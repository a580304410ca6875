"""The Python API, on a sweep that is run by it."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

import adiabatic_ray
from adiabatic_ray import SweepResult, config, errors
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.store import TrialStore
from tests import sweeps
from tests.records import record

TEXTS = ["who reads a book?", "кто читает книгу", "ein Fluss"]
HEAVY = {
    "torch",
    "ray",
    "numpy",
    "pandas",
    "rich",
    "ruamel",
    "mlflow",
    "transformers",
    "optuna",
    "pydantic",
    "datasets",
}
# Two steps of a rate that gains, and a constraint that nothing violates.
FEASIBLE = {
    "search": {"objective": "questions", "method": "grid", "space": {"learning_rate": [1e-5, 3e-5, 6e-5]}},
    "constraint": {"data": "xnli", "margin": 90.0, "language_margin": 90.0, "alpha": 1e-3},
    "evaluate.confirmation": None,
    "train.steps": 40,
    "budget": {"trials": 2},
}


PROGRAM = """
import sys, threading, adiabatic_ray
sweep = adiabatic_ray.load_sweep(sys.argv[1])
thread = threading.Thread(target=lambda: adiabatic_ray.run(sweep))
thread.start()
thread.join()
"""


@pytest.fixture(scope="module")
def file(write_sweep_in: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep_in(tmp_path_factory.mktemp("api"), FEASIBLE)


@pytest.fixture(scope="module")
def run(file: Path) -> subprocess.CompletedProcess[str]:
    """A program that runs a sweep of two trials, on a thread that is not its main one."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", PROGRAM, str(file)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def result(run: subprocess.CompletedProcess[str], file: Path) -> SweepResult:
    """What came of it, opened in this process."""
    assert run.returncode == 0
    return adiabatic_ray.open_sweep(file)


@pytest.mark.slow
def test_a_run_is_quiet(run: subprocess.CompletedProcess[str]) -> None:
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.slow
def test_what_came_of_it(result: SweepResult, file: Path) -> None:
    sweep = adiabatic_ray.load_sweep(file)
    folder = Path(sweep.storage) / "small"
    assert (result.folder, result.sweep) == (folder, sweep)
    assert result.report == folder / "report.html"
    assert result.report.read_text().lstrip().lower().startswith("<!doctype html>")
    stored = TrialStore(folder).records
    assert sorted(stored) == [0, 1, 2]
    assert result.best is not None
    gains = {number: one.gain or 0.0 for number, one in stored.items()}
    assert result.best == stored[max(gains, key=lambda number: gains[number])]


@pytest.mark.slow
def test_trials_are_the_rows_of_the_leaderboard(result: SweepResult) -> None:
    written = pd.read_csv(io.StringIO(result.trials.to_csv(index=False)))
    pd.testing.assert_frame_equal(written, pd.read_csv(result.folder / "leaderboard.csv"))
    assert result.best is not None
    assert result.trials["trial"].iloc[0] == result.best.number
    assert {"gain", "constraint", "learning_rate", "state", "pnd/questions"} <= set(result.trials.columns)


@pytest.mark.slow
def test_the_encoder_and_the_model_of_both_sides(result: SweepResult, pocket: Path) -> None:
    base = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    stored = SentenceTransformer(str(result.folder / "best" / "query_encoder"), device="cpu")
    tuned, both = result.encoder().to("cpu"), result.retrieval_model().to("cpu")
    assert tuned.encode_query(TEXTS).tobytes() == stored.encode_query(TEXTS).tobytes()
    assert 0 < abs(tuned.encode_query(TEXTS) - base.encode_query(TEXTS)).max() < 0.5
    assert abs(both.encode_query(TEXTS) - tuned.encode_query(TEXTS)).max() < 1e-6
    assert both.encode_document(TEXTS).tobytes() == base.encode_document(TEXTS).tobytes()


@pytest.mark.slow
def test_a_sweep_is_opened_by_its_folder_or_its_file(result: SweepResult, file: Path) -> None:
    for where in (result.folder, str(result.folder), file, str(file)):
        assert adiabatic_ray.open_sweep(where).best == result.best
    with pytest.raises(errors.SweepError, match=r"smal is no sweep: .*did you mean `small`"):
        adiabatic_ray.open_sweep(result.folder.with_name("smal"))


@pytest.mark.slow
def test_a_notebook_shows_the_leaderboard(result: SweepResult) -> None:
    page = result._repr_html_()
    assert result.best is not None
    assert f"<b>small: 3 trials, trial {result.best.number} is the best</b>" in page
    assert page.count("<tr") == 1 + 3
    cells = re.findall(r"<tr[^>]*>\s*<td>\d+</td>\s*<td>(\d+)</td>", page)
    assert list(map(int, cells)) == list(result.trials["trial"])


def test_names_are_escaped(tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path, sweeps.MINIMAL)
    store.put(record(1, 1.0, config={"freeze": "<script>alert(1)</script> & more"}))
    page = SweepResult(store)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page


def test_where_nothing_is_handed_over(tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path, sweeps.MINIMAL)
    store.put(record(0, 0.0, -1.0, config={}))
    store.put(record(1, 5.0, 0.7))
    result = adiabatic_ray.open_sweep(tmp_path)
    assert result.best is None
    assert "nothing is handed over" in result._repr_html_()
    for load in (result.encoder, result.retrieval_model):
        with pytest.raises(errors.SweepError, match=r"holds no exported encoder"):
            load()
    with pytest.raises(errors.SweepError, match=r"is no sweep"):
        adiabatic_ray.open_sweep(tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_goes_on_with_an_earlier_one(result: SweepResult, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    records = {path: path.stat().st_mtime_ns for path in result.folder.glob("trials/*/trial.json")}
    longer = dataclasses.replace(adiabatic_ray.load_sweep(file), budget=config.Budget(trials=3))
    again = adiabatic_ray.run(longer)
    assert "".join(capfd.readouterr()) == ""
    assert sorted(again.trials["trial"]) == [0, 1, 2, 3]
    assert {path: path.stat().st_mtime_ns for path in records} == records
    assert sorted(result.trials["trial"]) == [0, 1, 2]  # the result is of the time when it was opened
    adiabatic_ray.run(longer, console=Console())
    assert "small: going on after 3 finished trials" in capfd.readouterr().out


def test_a_sweep_file_with_a_mistake(write_sweep: Callable[..., Path]) -> None:
    with pytest.raises(errors.ConfigError, match=r"`train.margn` is not a key of `train` \(did you mean `margin`\?\)"):
        adiabatic_ray.load_sweep(write_sweep({"train.margn": 0.1}))


def test_the_pocket_world_is_known_to_sweep_files(pocket: Path, write_sweep: Callable[..., Path]) -> None:
    path = write_sweep()
    path.write_text(path.read_text().replace(str(pocket), "${ADIABATIC_POCKET}"))
    assert adiabatic_ray.load_sweep(str(path)).model.name == str(pocket / "encoder")


def test_importing_the_package_imports_nothing_else() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import adiabatic_ray"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {name for name in names if name.startswith("adiabatic_ray")} == {"adiabatic_ray"}
    assert not {name.partition(".")[0] for name in names} & HEAVY


def test_the_names_of_the_api() -> None:
    assert {"SweepResult", "evaluate", "load_sweep", "open_sweep", "run"} <= set(dir(adiabatic_ray))
    assert StorageFolder.__name__ not in dir(adiabatic_ray)
    with pytest.raises(AttributeError, match=r"module 'adiabatic_ray' has no attribute 'sweeep'"):
        adiabatic_ray.sweeep  # noqa: B018
