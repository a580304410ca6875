"""One run of a sweep: it holds its folder while it lasts, and goes on only with the settings that it had."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable

import pytest

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate.embedded_data import Data
from adiabatic_ray.sweep import session
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.run import SweepRun
from adiabatic_ray.trials.layout import StorageFolder, SweepFolder
from adiabatic_ray.trials.store import TrialStore, exists
from tests.records import record

Load = Callable[..., config.Sweep]


def folder_of(sweep: config.Sweep) -> SweepFolder:
    return StorageFolder.at(sweep.storage).sweep(sweep.name)


def entered(sweep: config.Sweep) -> SweepRun:
    return SweepRun(sweep, folder_of(sweep), Console(quiet=True))


def test_the_folder_is_held_while_it_lasts(load_sweep: Load) -> None:
    sweep = load_sweep()
    folder = folder_of(sweep)
    assert not exists(folder.path)
    with entered(sweep) as run:
        assert session.owned(folder)
        assert not run.resumed
        assert run.store.sweep == sweep
        with pytest.raises(errors.SweepError, match=r"is in use by another process"):
            entered(sweep).__enter__()
    assert not session.owned(folder)
    with entered(sweep) as run:
        assert run.resumed
    assert not session.owned(folder)


@pytest.mark.parametrize("error", [errors.DataError("no such file"), KeyboardInterrupt(), RuntimeError("a bug")])
def test_the_folder_is_free_after_an_error(load_sweep: Load, error: BaseException) -> None:
    sweep, before = load_sweep(), signal.getsignal(signal.SIGINT)
    with pytest.raises(type(error)) as caught, entered(sweep):
        raise error
    assert caught.value is error
    assert not session.owned(folder_of(sweep))
    assert signal.getsignal(signal.SIGINT) is before


def test_other_settings_are_another_sweep(load_sweep: Load) -> None:
    with entered(load_sweep()) as run:
        run.store.put(record(1))
    settings = run.store.folder.settings.read_bytes()
    changed = load_sweep({"train.margin": 0.2, "constraint.margin": 5.0, "budget.trials": 9})
    with pytest.raises(errors.SweepError) as caught:
        entered(changed).__enter__()
    first, *changes, way_out = str(caught.value).splitlines()
    assert first == f"{run.store.folder.path} holds a sweep with other settings:"
    assert changes == ["  train.margin: 0.1 -> 0.2", "  constraint.margin: 10.0 -> 5.0"]
    assert "another `name`" in way_out
    assert f"delete {run.store.folder.path}" in way_out
    assert run.store.folder.settings.read_bytes() == settings
    assert not session.owned(run.store.folder)


def test_what_may_change_is_kept(load_sweep: Load) -> None:
    with entered(load_sweep()) as run:
        run.store.put(record(1))
        identity = run.store.id
    longer = load_sweep({"budget.trials": 9, "resources.concurrent_trials": None})
    with entered(longer) as run:
        assert (run.store.id, sorted(run.store.records)) == (identity, [1])
        assert run.store.sweep == longer
    stored = json.loads(run.store.folder.settings.read_text())
    assert stored["settings"]["budget"]["trials"] == 9


def test_settings_are_mended_where_nothing_ran(load_sweep: Load) -> None:
    wrong, right = load_sweep({"search.space.freeze": ["layer.9"]}), load_sweep({"search.space.freeze": ["none"]})
    with entered(wrong):
        pass
    with entered(right) as run:
        assert run.store.sweep == right
    assert TrialStore(run.store.folder.path).sweep == right


def test_a_signal_asks_the_run_to_end(load_sweep: Load, capfd: pytest.CaptureFixture[str]) -> None:
    with entered(load_sweep()) as run:
        assert not run.interrupted.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert run.interrupted.wait(10)
    assert "ending; once more to end at once" in capfd.readouterr().err


def test_the_same_run_with_other_sets(load_sweep: Load, data: Data) -> None:
    """Its trials lie in a folder of their own, and the run that it came from stays as it is."""
    sweep = load_sweep()
    other = dataclasses.replace(sweep, seed=7)
    with entered(sweep) as run:
        run.data = data
        repeats = run.with_sets(other, Data(data.train, data.confirmation, {}), run.store.folder.confirmation)
        repeats.store.put(record(1))
        assert (repeats.sweep, repeats.data.selection) == (other, data.confirmation)
        assert repeats.store.folder.path == run.store.folder.path / "confirmation"
        assert (repeats.interrupted, repeats.console) == (run.interrupted, run.console)
        assert (run.sweep, run.data, dict(run.store.records)) == (sweep, data, {})
        again = run.with_sets(other, data, run.store.folder.confirmation)
        assert (again.store.id, sorted(again.store.records)) == (repeats.store.id, [1])
