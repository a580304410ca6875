"""Records and settings survive, and a damaged file is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adiabatic_ray import config, errors
from adiabatic_ray.trials import store as stores
from adiabatic_ray.trials.record import Candidate, Confirmation, ProfilePoint
from adiabatic_ray.trials.store import TrialStore
from tests.records import record
from tests.sweeps import MINIMAL, minimal


def test_records_are_read_back(tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path / "s", MINIMAL)
    scaled = (Candidate(0.25, {"gain": 1.0, "constraint": -0.9}, "neutral/de/en"),)
    records = [
        record(1, scaled=scaled, repeats=({"gain": 1.0, "constraint": -0.2},)),
        record(12, state="running", finished=None),
        record(
            2,
            profile=(ProfilePoint(0.5, 1.0, -0.2, 3.0),),
            confirmations=(Confirmation(0.5, 1.0, {"bound/overall": 0.1}), Confirmation(1.0, 2.0, {}, "it harms")),
        ),
    ]
    for one in records:
        store.put(one)
    again = TrialStore(tmp_path / "s")
    assert again.id == store.id
    assert again.sweep == MINIMAL
    assert again.records == {one.number: one for one in records}
    assert [one.number for one in again.finished()] == [1, 2]


def test_settings_are_read_back_with_ranges_and_defaults(tmp_path: Path) -> None:
    space = {"learning_rate": config.Range(low=1e-8, high=1e-6, log=True), "dropout": [True, False]}
    sweep = minimal(
        search=config.Search(objective="questions", space=space), budget=config.Budget(trials=3, hours=0.5), seed=7
    )
    TrialStore.create(tmp_path / "s", sweep)
    assert TrialStore(tmp_path / "s").sweep == sweep


def test_settings_of_another_version_are_told(tmp_path: Path) -> None:
    """The store opens all the same: what was measured can be read."""
    TrialStore.create(tmp_path, MINIMAL).put(record(1))
    content = json.loads((tmp_path / "sweep.json").read_text())
    content["settings"]["train"]["momentum"] = 0.9
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    store = TrialStore(tmp_path)
    assert list(store.records) == [1]
    with pytest.raises(errors.ConfigError, match=rf"{tmp_path}/sweep.json: `train.momentum` is not a key of `train`"):
        _ = store.sweep


def test_updated_settings_replace_the_earlier_ones_and_the_id_stays(tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path, MINIMAL)
    assert store.sweep == MINIMAL
    created = json.loads((tmp_path / "sweep.json").read_text())
    longer = minimal(budget=config.Budget(trials=9))
    store.update_settings(longer)
    assert store.sweep == longer
    again = TrialStore(tmp_path)
    assert (again.id, again.sweep) == (store.id, longer)
    changed = json.loads((tmp_path / "sweep.json").read_text())
    assert changed["created"] == created["created"]
    written = (tmp_path / "sweep.json").stat().st_mtime_ns
    again.update_settings(longer)
    assert (tmp_path / "sweep.json").stat().st_mtime_ns == written  # nothing changed, so nothing is written


def test_a_record_that_a_kill_left_half_written_does_not_count(tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path / "s", MINIMAL)
    store.put(record(1))
    store.folder.trial(2).path.mkdir()
    (store.folder.trial(2).path / "trial.partial").write_text('{"number":')
    assert list(TrialStore(tmp_path / "s").records) == [1]


@pytest.mark.parametrize("name", ["sweep.json", "trials/0001/trial.json"])
@pytest.mark.parametrize("damage", ["half", "[]", "{}"])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, name: str, damage: str) -> None:
    TrialStore.create(tmp_path, MINIMAL).put(record(1))
    whole = (tmp_path / name).read_text()
    (tmp_path / name).write_text(whole[: len(whole) // 2] if damage == "half" else damage)
    with pytest.raises(errors.SweepError, match=rf"{name} is damaged \(.+\)\. .*[Dd]elete {tmp_path}"):
        TrialStore(tmp_path)


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    assert not stores.exists(tmp_path)
    with pytest.raises(errors.SweepError, match=r"holds no sweep: there is no `sweep.json`"):
        TrialStore(tmp_path)
    TrialStore.create(tmp_path, MINIMAL)
    assert stores.exists(tmp_path)


def test_files_are_plain_json_with_the_documented_keys(tmp_path: Path) -> None:
    """Stored keys do not change without a reader for the old ones."""
    store = TrialStore.create(tmp_path / "s", MINIMAL)
    store.put(record(7))
    content = json.loads((tmp_path / "s" / "trials" / "0007" / "trial.json").read_text())
    assert content["config"] == {"learning_rate": 7e-6}
    assert content["points"][0]["metrics"]["constraint"] == -0.5
    keys = "number config state reason started finished points worst scaled profile confirmations repeats"
    assert list(content) == keys.split()
    assert list(content["points"][0]) == ["step", "time", "metrics"]
    settings = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert list(settings) == ["id", "created", "version", "settings"]
    assert settings["settings"] == config.resolved(MINIMAL)
