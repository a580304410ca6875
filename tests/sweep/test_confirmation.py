"""Configurations trained again with fresh seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from adiabatic_ray import cli, config, errors, storage, sweep_file
from adiabatic_ray.report import tracking
from adiabatic_ray.report.ledger import Candidate, Ledger, Point, Record, best
from adiabatic_ray.sweep import confirmation, driver
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.workbench import DISPLACEMENT

Load = Callable[..., config.Sweep]


def made(number: int, gain: float, constraint: float = -0.5, **changes: Any) -> Record:
    metrics = {"gain": gain, "constraint": constraint, "p_value": 0.01}
    chosen = changes.pop("config", {"learning_rate": number * 1e-7})
    return Record(number, chosen, "complete", "", 1.0, 2.0, (Point(8, 2.0, metrics),), **changes)


@pytest.fixture
def ledger(load_sweep: Load) -> Ledger:
    """A sweep that was run, without any trials yet."""
    sweep = load_sweep()
    return Ledger.create(Path(sweep.storage) / sweep.name, config.resolved(sweep))


def test_what_is_confirmed(ledger: Ledger) -> None:
    """The best of different configurations that were not refuted; two seeds of one are one."""
    refuted = {"gain": 8.0, "p_value": 0.1, "constraint": 0.3}
    ledger.put(made(1, 9.0, config={"learning_rate": 1e-7, "seed": 5}))
    ledger.put(made(2, 8.0, config={"learning_rate": 1e-7, "seed": 6}))
    ledger.put(made(3, 7.0, confirmation=refuted))
    ledger.put(made(4, 6.0, 0.4))
    ledger.put(made(5, 5.0))
    ledger.put(made(6, 4.0))
    ledger.put(made(7, 3.0))
    for number in (1, 2, 3, 4, 5, 6):  # the displacement of trial 7 was not kept, so it could not be handed over
        storage.write(ledger.trial_folder(number) / DISPLACEMENT, "")
    assert [record.number for record in confirmation.choose(ledger, 2)] == [1, 5]
    assert [record.number for record in confirmation.choose(ledger, 9)] == [1, 5, 6]


def test_nothing_to_confirm(ledger: Ledger, load_sweep: Load) -> None:
    ledger.put(made(1, 6.0, 0.4))
    with pytest.raises(errors.SweepError, match=r"small has no feasible trial to confirm"):
        confirmation.choose(ledger, 3)
    bare = load_sweep({"evaluate.confirmation": None, "name": "bare"})
    other = Ledger.create(Path(bare.storage) / "bare", config.resolved(bare))
    with pytest.raises(errors.SweepError, match=r"bare names no confirmation sets"):
        confirmation.run(other, 3, 5, Console())


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
    found = confirmation.collect(record, [first, second], sweep, 2)
    assert found[0] == {"seed": 1.0, "gain": 3.0, "p_value": 0.02, "constraint": -0.2}
    assert (found[1]["seed"], found[1]["constraint"]) == (2.0, 1000.0)


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
    once = made(4, 5.0, confirmation={"constraint": -0.1, "gain": 4.0, "p_value": 0.01})
    assert best([lucky, once]) == once
    assert best([lucky, once, steady]) == steady


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_confirm_from_the_command_line(write_sweep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep, then two seeds for its two best: in the ledger, the report, MLflow and the terminal; run once only."""
    rates = {"objective": "questions", "method": "grid", "space": {"learning_rate": [3e-5, 6e-5, 1e-4]}}
    harmless = {"data": "xnli", "margin": 90.0, "alpha": 1e-9}
    file = write_sweep({"search": rates, "constraint": harmless, "budget": {"confirm": 2}})
    sweep = sweep_file.load(file)
    driver.run(sweep, Console())
    capsys.readouterr()
    assert cli.main(["confirm", str(file), "--top", "2", "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    ledger = Ledger(Path(sweep.storage) / "small")
    repeated = {number: record for number, record in ledger.records.items() if record.repeats}
    assert len(repeated) == 2
    for record in repeated.values():
        assert [repeat["seed"] for repeat in record.repeats] == [1.0, 2.0]
    assert "seeds feasible" in printed
    trials = Ledger(ledger.folder / "confirmation").finished()
    assert len(trials) == 1 + 4
    norms = {record.metrics["displacement/norm"] for record in trials if record.number}
    assert len(norms) == 4  # another seed is another training
    winner = best(ledger.records.values())
    assert winner is not None
    assert winner.number in repeated

    client = mlflow.MlflowClient(tracking.default_uri(Path(sweep.storage)))
    experiment = client.get_experiment_by_name("adiabatic-ray")
    run = client.search_runs([experiment.experiment_id], f"tags.`sweep.trial` = '{winner.number}'")[0]
    expected = sum(repeat["gain"] for repeat in winner.repeats) / 2
    assert run.data.metrics["repeats/gain_mean"] == pytest.approx(expected)
    assert run.data.metrics["repeats/feasible_share"] == pytest.approx(winner.steadiness[0])

    before = {path: path.stat().st_mtime_ns for path in (ledger.folder / "confirmation").glob("trials/*/trial.json")}
    assert cli.main(["confirm", str(file), "--top", "2", "--seeds", "2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for command in ("report", "leaderboard", "status"):
        assert cli.main([command, str(ledger.folder)]) == 0
