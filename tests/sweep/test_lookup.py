"""Finding a sweep by its folder, its file, or in an object store; and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adiabatic_ray import errors, sweep_file
from adiabatic_ray.sweep import lookup
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.store import TrialStore

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

Write = Callable[..., Path]


def created(file: Path) -> TrialStore:
    sweep = sweep_file.load(file)
    return TrialStore.create(StorageFolder.at(sweep.storage).sweep(sweep.name).path, sweep)


@pytest.fixture
def file(write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep file in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_sweep()


@pytest.fixture
def store(file: Path) -> TrialStore:
    """The sweep of that file, which was run."""
    return created(file)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("where", ["small.yaml", "./small.yaml", "runs/small", "runs/small/", "runs/small/sweep.json"])
def test_a_sweep_by_what_a_user_calls_it(where: str, store: TrialStore) -> None:
    assert lookup.find(where).id == store.id
    assert lookup.find(where).folder.path == store.folder.path.resolve()


def test_a_folder_below_home(store: TrialStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert lookup.find("~/runs/small").id == store.id
    assert lookup.find("~/small.yaml").id == store.id


def test_a_sweep_in_an_object_store(
    s3: ThreadedMotoServer,  # noqa: ARG001
    write_sweep: Write,
) -> None:
    file = write_sweep({"storage": "s3://bucket/runs", "mlflow": {"uri": "http://mlflow:5000"}})
    store = created(file)
    assert lookup.find("s3://bucket/runs/small").id == lookup.find(str(file)).id == store.id
    with pytest.raises(errors.SweepError, match=r"smal is no sweep: .* holds `small` \(did you mean `small`\?\)"):
        lookup.find("s3://bucket/runs/smal")


def test_sweeps_that_are_not_there(store: TrialStore, file: Path, write_sweep: Write) -> None:
    with pytest.raises(errors.SweepError, match=r"smal is no sweep: .* holds `small` \(did you mean `small`\?\)"):
        lookup.find(str(store.folder.storage.path / "smal"))
    with pytest.raises(errors.SweepError, match=r"smal is no sweep: .*runs holds `small` \(did you mean"):
        lookup.find("smal")  # in the working directory's ./runs
    assert lookup.find(str(store.folder.path)).id == lookup.find(str(file)).id == store.id
    with pytest.raises(errors.SweepError, match=r"has not been run: .*smaller/sweep.json.* adiabatic-ray sweep "):
        lookup.find(str(write_sweep({"name": "smaller"})))
    store.folder.settings.write_text('{"id": "x", ')
    with pytest.raises(errors.SweepError, match=r"sweep.json is damaged"):
        lookup.find(str(store.folder.path))


def test_a_storage_without_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.SweepError, match=r"small is no sweep: .* holds no sweeps\."):
        lookup.find("small")
    (tmp_path / "small.yaml").write_text("name: small\n")
    with pytest.raises(errors.ConfigError, match=r"small.yaml: `model` is missing"):
        lookup.find("small.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]  # looking made none
