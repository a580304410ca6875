"""Early stopping: Tune's ASHA on the gain at the predicted edge, and its rungs after a sweep was interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune

from adiabatic_ray import config
from adiabatic_ray.evaluate.embedded_data import EmbeddedData
from adiabatic_ray.search.scheduler import TrialScheduler
from adiabatic_ray.search.searcher import ListSearch
from adiabatic_ray.sweep import early_stopping, tune_loop
from adiabatic_ray.sweep.cluster.resources import Plan
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.early_stopping import EarlyStopping
from adiabatic_ray.sweep.run import SweepRun
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import GAIN_AT_EDGE, TrialReport
from adiabatic_ray.trials.store import TrialStore
from tests import sweeps

EVALUATIONS = 5
# The gain at the edge of each trial's last evaluation. It grows evenly up to there.
LAST = [4.0, 9.0, 1.0, 2.0, 12.0, 3.0, 8.0, 20.0, 0.0, 10.0]


def scheduler_in(folder: Path) -> TrialScheduler:
    """A scheduler of trials with the gains of `LAST`, as a new run of the sweep opens it."""
    store = TrialStore(folder) if folder.exists() else TrialStore.create(folder, sweeps.MINIMAL)
    choices: list[Any] = [{"learning_rate": 1e-8 * (1 + i)} for i in range(len(LAST))]
    return TrialScheduler(store, sweeps.MINIMAL, ListSearch(choices), lambda _: None, threading.Event())


def report(number: int, evaluation: int) -> TrialReport:
    gain = LAST[number - 1] * evaluation / EVALUATIONS
    status = "complete" if evaluation == EVALUATIONS else "running"
    metrics = {"gain": gain, "constraint": 5.0, GAIN_AT_EDGE: gain}
    return TrialReport(number, status, evaluation, EVALUATIONS, metrics)  # type: ignore[arg-type]


def run(scheduler: TrialScheduler, early: EarlyStopping, trials: int) -> None:
    """Run trials one after the other, and call both as Tune does."""
    for _ in range(trials):
        following = scheduler.next_trial()
        assert following is not None
        number = following[0]
        trial = SimpleNamespace(config={"number": number})
        early.on_trial_add(None, trial)
        for evaluation in range(1, EVALUATIONS + 1):
            made = report(number, evaluation)
            scheduler.reported(made)
            if made.status == "complete":
                early.on_trial_complete(None, trial, {})
                break
            if early.on_trial_result(None, trial, {GAIN_AT_EDGE: made.metrics[GAIN_AT_EDGE]}) == early.STOP:
                break
        scheduler.ended(number)


def evaluations(scheduler: TrialScheduler) -> dict[int, int]:
    return {number: len(record.points) for number, record in sorted(scheduler.store.records.items())}


def test_trials_that_lag_behind_are_stopped_and_say_so(tmp_path: Path) -> None:
    scheduler = scheduler_in(tmp_path / "s")
    run(scheduler, EarlyStopping(scheduler, EVALUATIONS), len(LAST))
    spent = evaluations(scheduler)
    assert spent[8] == EVALUATIONS  # the best of all goes to its end
    assert spent == {1: 5, 2: 5, 3: 1, 4: 1, 5: 5, 6: 1, 7: 2, 8: 5, 9: 1, 10: 4}
    record = scheduler.store.records[3]
    assert (record.state, len(record.points)) == ("stopped", 1)
    assert record.reason == (
        "its predicted gain at the edge, +0.20%, lags behind that of other trials at evaluation 1 of 5"
    )
    assert {r.state for r in scheduler.store.records.values()} == {"complete", "stopped"}


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_resumed_sweep_stops_what_an_unbroken_one_would(tmp_path: Path, after: int) -> None:
    unbroken, broken = scheduler_in(tmp_path / "unbroken"), scheduler_in(tmp_path / "broken")
    run(unbroken, EarlyStopping(unbroken, EVALUATIONS), len(LAST))
    run(broken, EarlyStopping(broken, EVALUATIONS), after)
    resumed = scheduler_in(tmp_path / "broken")
    run(resumed, EarlyStopping(resumed, EVALUATIONS), len(LAST) - after)
    assert evaluations(resumed) == evaluations(unbroken)


def test_without_it_there_is_none(tmp_path: Path) -> None:
    assert early_stopping.for_sweep(sweeps.MINIMAL, scheduler_in(tmp_path / "s")) is None


class Curve(tune.Trainable):  # type: ignore[misc]
    """A trial whose gain grows evenly. The third one diverges."""

    def setup(self, chosen: dict[str, Any], **_: Any) -> None:
        self.number, self.evaluation = chosen["number"], 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self.evaluation += 1
        if self.number == 3:
            return {"report": TrialReport(3, "diverged", reason="nan"), "done": True, GAIN_AT_EDGE: float("nan")}
        made = report(self.number, self.evaluation)
        done = made.status == "complete"
        return {"report": made, "done": done, GAIN_AT_EDGE: made.metrics[GAIN_AT_EDGE]}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_tune_stops_them(
    load_sweep: Callable[..., config.Sweep], embedded: EmbeddedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_loop, "QueryTuning", Curve)
    changes = {"budget.trials": 9, "budget.early_stopping": "asha", "train.evaluations": EVALUATIONS}
    sweep = load_sweep(changes)
    plan = Plan(cpus=1, gpus=0, concurrent=1, workers=1, fitting=2, filling_cpus=2)
    with SweepRun(sweep, StorageFolder.at(sweep.storage).sweep(sweep.name), Console(quiet=True)) as opened:
        opened.plan, opened.embedded, opened.trials = plan, embedded, len(LAST)
        choices: list[Any] = [{"learning_rate": 1e-8 * (1 + i)} for i in range(len(LAST))]
        scheduler = opened.scheduler(ListSearch(choices))
        tune_loop.run_trials(scheduler, opened)
        records = opened.store.records
    assert records[3].state == "diverged"
    assert (records[8].state, len(records[8].points)) == ("complete", EVALUATIONS)
    assert records[4].state == "stopped"
