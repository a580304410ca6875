"""Configurations trained again with fresh seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adiabatic_ray import cli, config, errors, storage, sweep_file
from adiabatic_ray.sweep import confirmation, driver
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import Candidate, Confirmation, Evaluation, TrialRecord, best
from adiabatic_ray.trials.store import TrialStore
from tests import tracked

Load = Callable[..., config.Sweep]


def made(number: int, gain: float, constraint: float = -0.5, **changes: Any) -> TrialRecord:
    metrics = {"gain": gain, "constraint": constraint, "p_value": 0.01}
    chosen = changes.pop("config", {"learning_rate": number * 1e-7})
    return TrialRecord(number, chosen, "complete", "", 1.0, 2.0, (Evaluation(8, 2.0, metrics),), **changes)


@pytest.fixture
def store(load_sweep: Load) -> TrialStore:
    """A sweep that was run, without any trials yet."""
    return created(load_sweep())


def created(sweep: config.Sweep) -> TrialStore:
    return TrialStore.create(StorageFolder.at(sweep.storage).sweep(sweep.name).path, sweep)


def test_what_is_confirmed(store: TrialStore) -> None:
    """The best of different configurations; two seeds of one are one."""
    store.put(made(1, 9.0, config={"learning_rate": 1e-7, "seed": 5}))
    store.put(made(2, 8.0, config={"learning_rate": 1e-7, "seed": 6}))
    store.put(made(4, 6.0, 0.4))
    store.put(made(5, 5.0))
    store.put(made(6, 4.0))
    store.put(made(7, 3.0))
    for number in (1, 2, 4, 5, 6):  # the displacement of trial 7 was not kept, so it could not be handed over
        storage.write(store.folder.trial(number).displacement, "")
    assert [record.number for record in confirmation.choose(store, 2)] == [1, 5]
    assert [record.number for record in confirmation.choose(store, 9)] == [1, 5, 6]


def test_of_tested_trials_only_those_that_passed_are_repeated(store: TrialStore) -> None:
    passed, failed = (Confirmation(1.0, 7.0, {}),), (Confirmation(1.0, 7.0, {}, "it harms"),)
    for number, confirmations in ((1, ()), (2, failed), (3, passed)):
        store.put(made(number, 9.0 - number, confirmations=confirmations))
        storage.write(store.folder.trial(number).displacement, "")
    assert [record.number for record in confirmation.choose(store, 9)] == [3]


def test_nothing_to_confirm(store: TrialStore, load_sweep: Load) -> None:
    store.put(made(1, 6.0, 0.4))
    with pytest.raises(errors.SweepError, match=r"small has no feasible trial to confirm"):
        confirmation.choose(store, 3)
    bare = created(load_sweep({"evaluate.confirmation": None, "name": "bare"}))
    with pytest.raises(errors.SweepError, match=r"bare names no confirmation sets"):
        confirmation.run(bare, 3, 5, Console())


def test_seeds_are_fresh(load_sweep: Load) -> None:
    sweep = load_sweep({"seed": 3, "search.space": {"learning_rate": [1e-7], "seed": [3, 4, 9]}})
    configs = confirmation.fresh(made(1, 1.0, config={"learning_rate": 1e-7, "seed": 4}), sweep, 3)
    assert configs == [{"learning_rate": 1e-7, "seed": seed} for seed in (10, 11, 12)]
    sweep = load_sweep({"search.space": {"learning_rate": [1e-7], "seed": {"low": 0, "high": 20}}})
    configs = confirmation.fresh(made(1, 1.0, config={"learning_rate": 1e-7, "seed": 4}), sweep, 2)
    assert [one["seed"] for one in configs] == [21, 22]


def test_repetitions_are_read_at_the_candidates_scale(load_sweep: Load) -> None:
    sweep = load_sweep()
    half = Candidate(0.5, {"gain": 3.0, "constraint": -0.2, "p_value": 0.02}, "")
    record = made(1, 9.0, 0.7, scaled=(half,))
    first = made(1, 8.0, 0.9, config={"learning_rate": 1e-7, "seed": 1}, scaled=(half,))
    second = made(2, 7.0, config={"learning_rate": 1e-7, "seed": 2}).ended("diverged", "nan")
    collected = confirmation.collect(record, [first, second], sweep, 2)
    assert collected[0] == {"seed": 1.0, "gain": 3.0, "p_value": 0.02, "constraint": -0.2}
    assert (collected[1]["seed"], collected[1]["constraint"]) == (2.0, 1000.0)


def test_the_steady_one_wins_and_not_the_luckiest() -> None:
    def repeats(*outcomes: tuple[float, float]) -> tuple[dict[str, float], ...]:
        return tuple({"seed": float(i), "gain": g, "constraint": c} for i, (g, c) in enumerate(outcomes))

    lucky = made(1, 20.0, repeats=repeats((30.0, -0.1), (25.0, 0.2), (28.0, 0.1)))
    steady = made(2, 9.0, repeats=repeats((8.0, -0.4), (9.0, -0.5), (7.0, -0.4)))
    better = made(3, 8.0, repeats=repeats((9.0, -0.4), (9.0, -0.5), (9.0, -0.4)))
    assert best([made(0, 0.0), lucky, steady]) == steady
    assert best([made(0, 0.0), lucky, steady, better]) == better
    assert best([lucky]) is None  # most of its repetitions were infeasible
    assert lucky.confirmed is False
    assert lucky.refutation == "of its 3 repetitions with other seeds only 1 stayed feasible there"
    assert (steady.confirmed, steady.refutation) == (True, "")
    once = made(4, 5.0, confirmations=(Confirmation(1.0, 5.0, {"gain": 4.0, "p_value": 0.01}),))
    assert best([lucky, once]) == once
    assert best([lucky, once, steady]) == steady


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_confirm_from_the_command_line(write_sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep, then two seeds for the best that passed: in the store, the report, MLflow, the terminal; once only."""
    rates = {"objective": "questions", "method": "grid", "space": {"learning_rate": [3e-5, 6e-5, 1e-4]}}
    harmless = {"data": "xnli", "margin": 90.0, "language_margin": 90.0, "alpha": 1e-3}
    file = write_sweep({"search": rates, "constraint": harmless, "budget": {"confirm": 3}})
    sweep = sweep_file.load(file)
    driver.run(sweep, Console())
    capsys.readouterr()
    assert cli.main(["confirm", str(file), "--top", "2", "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    store = TrialStore(StorageFolder.at(sweep.storage).sweep("small").path)
    repeated = {number: record for number, record in store.records.items() if record.repeats}
    passed = [record for number, record in store.records.items() if number and record.confirmations]
    assert len(repeated) == min(2, len(passed)) > 0
    for record in repeated.values():
        assert [repeat["seed"] for repeat in record.repeats] == [1.0, 2.0]
    assert "seeds feasible" in printed
    trials = TrialStore(store.folder.confirmation.path).finished()
    assert len(trials) == 1 + 2 * len(repeated)
    norms = {record.metrics["displacement/norm"] for record in trials if record.number}
    assert len(norms) == 2 * len(repeated)  # another seed is another training
    winner = best(store.records.values())
    assert winner is not None
    assert winner.number in repeated

    run = tracked.runs(sweep)[str(winner.number)]
    expected = sum(repeat["gain"] for repeat in winner.repeats) / 2
    assert run.data.metrics["repeats/gain_mean"] == pytest.approx(expected)
    assert run.data.metrics["repeats/feasible_share"] == pytest.approx(winner.repeat_score[0])

    before = {path: path.stat().st_mtime_ns for path in store.folder.path.glob("confirmation/trials/*/trial.json")}
    assert len(before) == len(trials)
    assert cli.main(["confirm", str(file), "--top", "2", "--seeds", "2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for command in ("report", "leaderboard", "status"):
        assert cli.main([command, str(store.folder.path)]) == 0
