"""A model in a folder, where nodes share no disk."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config, storage
from adiabatic_ray.model import encoder
from adiabatic_ray.sweep.cluster import shared_model
from adiabatic_ray.trials.layout import StorageFolder
from tests import sweeps


def with_model(name: object, storage: str) -> config.Sweep:
    return sweeps.minimal(model=config.Model(name=str(name)), storage=storage)


def test_a_model_stays_where_all_nodes_find_it(pocket: Path, tmp_path: Path) -> None:
    for sweep in (with_model(pocket / "encoder", str(tmp_path)), with_model("intfloat/e5", "s3://bucket/runs")):
        assert shared_model.for_all_nodes(sweep) is sweep
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("s3")
def test_a_folder_goes_into_the_object_store_once(
    pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    folder = shutil.copytree(pocket / "encoder", tmp_path / "encoder")
    models = StorageFolder.at("s3://bucket/runs").models
    shared = shared_model.for_all_nodes(with_model(folder, "s3://bucket/runs"))
    assert shared.model.name.startswith("s3://bucket/runs/models/")
    assert dataclasses.replace(shared, model=with_model(folder, "").model) == with_model(folder, "s3://bucket/runs")
    # It is the same encoder there, on a machine that has nothing of it.
    texts = ["who reads a book?"]
    expected = SentenceTransformer(str(folder), device="cpu").encode_query(texts)
    assert abs(encoder.load(shared.model).encode(texts, "query").numpy() - expected).max() < 1e-6

    copy = storage.folder(shared.model.name)
    weights = copy / "model.safetensors"
    before = weights.stat().st_mtime
    again = shutil.copytree(folder, tmp_path / "elsewhere")  # the same content under another name
    assert shared_model.for_all_nodes(with_model(again, "s3://bucket/runs")).model.name == shared.model.name
    assert weights.stat().st_mtime == before
    assert len(list(models.iterdir())) == 1

    (again / "README.md").write_text("another one")
    assert shared_model.for_all_nodes(with_model(again, "s3://bucket/runs")).model.name != shared.model.name
    assert len(list(models.iterdir())) == 2


@pytest.mark.usefixtures("s3")
def test_a_copy_that_was_cut_off_is_made_again(pocket: Path) -> None:
    sweep = with_model(pocket / "encoder", "s3://bucket/cut-off")
    copy = storage.folder(shared_model.for_all_nodes(sweep).model.name)
    files = {path.name for path in copy.rglob("*") if path.is_file()}
    storage.drop(copy / "config.json")  # which is uploaded last
    storage.drop(copy / "model.safetensors")
    shared_model.for_all_nodes(sweep)
    assert {path.name for path in copy.rglob("*") if path.is_file()} == files >= {"config.json", "model.safetensors"}
