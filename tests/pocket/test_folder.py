"""Where the pocket world lies, and that it is made once and only where a sweep file speaks of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adiabatic_ray import errors, sweep_file
from adiabatic_ray.pocket import folder


@pytest.fixture
def file(write_sweep: Callable[..., Path], pocket: Path) -> Path:
    """A sweep file that names the world by its variable."""
    path = write_sweep()
    path.write_text(path.read_text().replace(str(pocket), "${ADIABATIC_POCKET}"))
    return path


def test_world_is_made_once(pocket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(folder.make()) == []
    assert folder.location() == pocket
    monkeypatch.setenv(folder.VARIABLE, "/elsewhere")
    assert str(folder.location()) == "/elsewhere"


def test_a_cluster_has_one_world_in_the_cache_that_its_nodes_share(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(folder.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    alone = folder.location()
    assert alone.is_relative_to(tmp_path / "own")
    monkeypatch.setenv("ADIABATIC_STORAGE", str(tmp_path / "runs"))
    shared = folder.location()
    assert shared.parent == tmp_path / "runs" / "cache"
    assert shared.name == alone.name  # of the same version
    monkeypatch.setenv("ADIABATIC_STORAGE", "s3://bucket/runs")  # where no files can be opened
    assert folder.location() == alone


def test_a_sweep_file_is_read_with_the_world_in_it(file: Path, pocket: Path) -> None:
    for sweep in (folder.read(file), folder.load(file)):
        assert sweep.model.name == str(pocket / "encoder")
        assert sweep.train.data.path == str(pocket / "questions" / "train.jsonl")


def test_reading_makes_no_world(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folder.VARIABLE, str(tmp_path / "world"))
    assert folder.read(file).model.name == str(tmp_path / "world" / "encoder")
    assert not (tmp_path / "world").exists()


def test_a_file_that_does_not_speak_of_the_world_makes_none(
    write_sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_sweep()
    monkeypatch.setenv(folder.VARIABLE, str(tmp_path / "world"))
    assert folder.load(file, lambda *_: pytest.fail("made the world")) == sweep_file.load(file)
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize("read", [folder.read, folder.load])
def test_a_file_that_cannot_be_read_is_told(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"none.yaml: no such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(errors.ConfigError, match=r"latin.yaml: is not UTF-8 text"):
        read(tmp_path / "latin.yaml")


@pytest.mark.slow
def test_an_interrupted_making_starts_anew(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folder.VARIABLE, str(tmp_path / "world"))
    making = folder.make()
    next(making)
    making.close()
    assert not (tmp_path / "world").exists()
    torch.manual_seed(5)
    steps: list[tuple[int, int]] = []
    sweep = folder.load(file, lambda step, total: steps.append((step, total)))
    assert steps[-1][0] == steps[-1][1] == len(steps)
    assert (tmp_path / "world" / "encoder" / "model.safetensors").is_file()
    assert Path(sweep.train.data.path).is_file()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []
