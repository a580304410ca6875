"""Checkpoints are whole or not there."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.checkpoint import Checkpoint
from tests.trap import Pickled

STATE = Checkpoint({"delta/a.b": torch.arange(3.0), "exp_avg/a.b": torch.ones(3)}, {"step": 4, "scaler": None})


def test_round_trip(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "deep" / "c.safetensors", STATE)
    loaded = checkpoint.load(tmp_path / "deep" / "c.safetensors")
    assert loaded is not None
    assert loaded.values == {"step": 4, "scaler": None}
    assert torch.equal(loaded.part("delta")["a.b"], torch.arange(3.0))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


def test_absent_and_damaged_are_none(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    assert checkpoint.load(path) is None
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-4]):
        path.write_bytes(damaged)
        assert checkpoint.load(path) is None


def test_a_pickled_one_is_not_unpickled(tmp_path: Path) -> None:
    path, mark = tmp_path / "c.safetensors", tmp_path / "mark"
    torch.save({"delta/a.b": Pickled(mark)}, path)
    assert checkpoint.load(path) is None
    path.write_bytes(pickle.dumps(Pickled(mark)))
    assert checkpoint.load(path) is None
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - it is a trap
    assert mark.exists()


def test_failed_save_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, STATE)
    try:
        checkpoint.save(path, Checkpoint({"delta/a.b": torch.ones(3)}, {"step": object()}))
    except TypeError:
        loaded = checkpoint.load(path)
        assert loaded is not None
        assert loaded.values["step"] == 4
    else:
        raise AssertionError("an object was written as JSON")
