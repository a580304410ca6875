"""The names of files and folders are those that earlier sweeps were stored under."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adiabatic_ray import storage
from adiabatic_ray.trials import layout
from adiabatic_ray.trials.layout import StorageFolder, SweepFolder, TrialFolder
from adiabatic_ray.trials.store import TrialStore
from tests.records import record
from tests.sweeps import MINIMAL

STORAGE = StorageFolder(Path("/runs"))
SWEEP = STORAGE.sweep("e5")
TRIAL = SWEEP.trial(7)
TREE = {
    "cache": STORAGE.cache,
    "models": STORAGE.models,
    "mlflow.db": STORAGE.mlflow_database,
    "e5": SWEEP.path,
    "e5/sweep.json": SWEEP.settings,
    "e5/.lock": SWEEP.lock,
    "e5/report.html": SWEEP.report,
    "e5/guarantee.json": SWEEP.guarantee,
    "e5/.report.lock": SWEEP.report_lock,
    "e5/figures": SWEEP.figures,
    "e5/leaderboard.csv": SWEEP.leaderboard,
    "e5/study.journal": SWEEP.journal,
    "e5/best": SWEEP.best.path,
    "e5/best/query_encoder": SWEEP.best.query_encoder,
    "e5/best/retrieval_model": SWEEP.best.retrieval_model,
    "e5/best/query_adapter": SWEEP.best.query_adapter,
    "e5/best/trial.json": SWEEP.best.record,
    "e5/confirmation": SWEEP.confirmation.path,
    "e5/confirmation/sweep.json": SWEEP.confirmation.settings,
    "e5/confirmation/trials/0001": SWEEP.confirmation.trial(1).path,
    "e5/trials/0007": TRIAL.path,
    "e5/trials/0007/trial.json": TRIAL.record,
    "e5/trials/0007/discordance.csv": TRIAL.discordance,
    "e5/trials/0007/outcomes.safetensors": TRIAL.outcomes,
    "e5/trials/0007/confirmation.csv": TRIAL.confirmation_discordance,
    "e5/trials/0007/confirmation.safetensors": TRIAL.confirmation_outcomes,
    "e5/trials/0007/checkpoint.safetensors": TRIAL.checkpoint,
    "e5/trials/0007/displacement.safetensors": TRIAL.displacement,
    "e5/trials/0007/error.txt": TRIAL.error,
    "e5/trials/12345": SWEEP.trial(12345).path,
}


def documented() -> set[str]:
    """The paths of the tree in the module's docstring, for the sweep `e5`."""
    assert layout.__doc__ is not None
    lines = re.findall(r"^((?:  )+)([^\s,]+(?:, [^\s,]+)*)", layout.__doc__.replace("NAME/", "e5/"), re.MULTILINE)
    paths: set[str] = set()
    folders: list[str] = []
    for indent, listed in lines:
        names = [name.rstrip("/") for name in listed.split(", ")]
        stem = names[0].partition(".")[0]
        del folders[len(indent) // 2 - 1 :]
        paths |= {"/".join([*folders, stem + name if name.startswith(".") else name]) for name in names}
        folders.append(names[0])
    return paths


def test_every_name_is_the_stored_one() -> None:
    assert {name: path.relative_to("/runs").as_posix() for name, path in TREE.items()} == {name: name for name in TREE}


def test_the_documented_tree_is_the_one_in_use() -> None:
    undocumented = {"e5/.lock", "e5/.report.lock", "e5/trials/12345"}
    undocumented |= {name for name in TREE if name.startswith("e5/confirmation/")}  # a sweep's folder by itself
    foreign = {"mlartifacts"}  # MLflow makes it
    assert documented() - foreign - {"e5/trials"} == TREE.keys() - undocumented


def test_patterns_match_what_a_store_writes(tmp_path: Path) -> None:
    folder = StorageFolder(tmp_path).sweep("e5")
    store = TrialStore.create(folder.path, MINIMAL)
    for number in (0, 7, 12345):
        store.put(record(number))
    assert storage.found(tmp_path, StorageFolder.SWEEPS) == [folder.settings]
    assert storage.found(folder.path, SweepFolder.TRIALS) == [folder.trial(n).record for n in (0, 7, 12345)]
    assert folder.storage == StorageFolder(tmp_path)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/runs/e5/trials/0007", (SWEEP, 7)),
        ("/runs/e5/trials/0000", (SWEEP, 0)),
        ("/runs/e5/trials/12345", (SWEEP, 12345)),
        ("/runs/e5/confirmation/trials/0001", (SWEEP.confirmation, 1)),
        ("/runs/e5/trials/7", None),
        ("/runs/e5/trials/best", None),
        ("/runs/e5/trials", None),
        ("/runs/e5/0007", None),
        ("/runs/e5", None),
    ],
)
def test_the_place_of_a_trials_folder(path: str, place: tuple[SweepFolder, int] | None) -> None:
    assert TrialFolder(Path(path)).place == place


@pytest.mark.parametrize("number", [0, 7, 9999, 10_000])
def test_a_trials_place_leads_back_to_it(number: int) -> None:
    assert SWEEP.trial(number).place == (SWEEP, number)


def test_a_storage_may_be_an_object_store() -> None:
    there = StorageFolder.at("memory://bucket/sweeps").sweep("e5").trial(7).record
    assert str(there) == "memory://bucket/sweeps/e5/trials/0007/trial.json"
    assert StorageFolder.at("runs").path == Path("runs").resolve()
