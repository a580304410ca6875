"""Confirmation with fresh seeds: trains the best configurations again, and measures them on the confirmation sets.

A selected trial was the best of many, so its numbers are biased upwards. Its configuration is trained again with new
seeds, and measured on data that had no part in the selection, so the new numbers do not have this bias. The
configuration that stays feasible most often wins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from adiabatic_ray import config, errors, storage
from adiabatic_ray.search.searcher import ListSearch
from adiabatic_ray.search.space import Config
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.run import SweepRun
from adiabatic_ray.sweep.tune_loop import run_trials
from adiabatic_ray.trials.record import FAILED_CONSTRAINT, TrialRecord, best, contenders, trained, tuned
from adiabatic_ray.trials.store import TrialStore


def run(store: TrialStore, top: int, seeds: int, console: Console) -> TrialRecord | None:
    """Train the `top` best feasible configurations with `seeds` fresh seeds each. Return the winner.

    The trials lie in the sweep's folder `confirmation`. Trials that have ended there are not run again.

    Raises:
        AdiabaticRayError: there is no trial to confirm, there are no confirmation sets, or the run failed.
        KeyboardInterrupt: the user stopped it. Running it again goes on with it.
    """
    sweep = store.sweep
    if not sweep.evaluate.confirmation:
        raise errors.SweepError(
            f"{sweep.name} names no confirmation sets, so nothing can be confirmed. Add `evaluate.confirmation` to its "
            "file, with data that no trial was selected on, and run it under another `name`."
        )
    with SweepRun(sweep, store.folder, console) as run:
        chosen = choose(run.store, top)
        configs = [config_ for record in chosen for config_ in fresh(record, sweep, seeds)]
        run.connect(len(configs), f"{len(chosen)} configurations with {seeds} seeds each")
        # These trials are measured on the confirmation sets, in the role of selection sets.
        data = dataclasses.replace(run.data, selection=run.data.confirmation, confirmation={})
        repeats = run.with_sets(_repeating(sweep, configs[:seeds], chosen), data, store.folder.confirmation)
        repeats.embed()
        scheduler = repeats.scheduler(ListSearch(configs))
        run_trials(scheduler, repeats)
        if run.interrupted.is_set():
            raise KeyboardInterrupt
        if scheduler.failed:
            raise errors.SweepError(scheduler.over)
        for record in chosen:
            collected = collect(record, repeats.store.finished(), sweep, seeds)
            run.store.put(dataclasses.replace(record, repeats=collected))
        console.repeats(run.store.records.values())
        run.mirror_to_mlflow()
        run.hand_over()
        run.finish("FINISHED")
        return best(run.store.records.values())


def _repeating(sweep: config.Sweep, configs: Sequence[Config], chosen: Sequence[TrialRecord]) -> config.Sweep:
    """The sweep's settings for trials that repeat a configuration with the seeds of `configs`.

    Each is measured at the scales of all candidates of the `chosen` trials.
    """
    scales = {record.candidate.scale for record in chosen if record.candidate}
    return dataclasses.replace(
        sweep,
        evaluate=config.Evaluate(selection=sweep.evaluate.confirmation, scales=sorted(scales - {1.0})),
        budget=config.Budget(failed_trials=sweep.budget.failed_trials, stop_harmful=False, confirm=1),
        search=config.Search(
            objective=sweep.search.gain,
            method="grid",
            space={"seed": [one["seed"] for one in configs]},
            candidates="whole",
        ),
    )


def choose(store: TrialStore, top: int) -> list[TrialRecord]:
    """The `top` best trials of different configurations, of those that have a stored displacement, without soups.

    Where candidates were tested on the confirmation sets, only trials that passed count: the guarantee is theirs.

    Raises:
        SweepError: there is no such trial.
    """
    chosen: dict[str, TrialRecord] = {}
    tested = any(record.confirmations for record in tuned(store.records.values()))
    for record in trained(contenders(store.records.values())):
        key = repr(sorted(_seedless(record.config).items()))
        # Earlier repeats are ignored, so that the same command chooses the same trials again.
        passed = dataclasses.replace(record, repeats=()).confirmed or not tested
        if key not in chosen and passed and storage.exists(store.folder.trial(record.number).displacement):
            chosen[key] = record
        if len(chosen) == top:
            break
    if not chosen:
        raise errors.SweepError(
            f"{store.sweep.name} has no feasible trial to confirm that is better than the untouched encoder and "
            "was not refuted; search smaller learning rates, or stronger freezing masks, in a sweep of another name."
        )
    return list(chosen.values())


def fresh(record: TrialRecord, sweep: config.Sweep, seeds: int) -> list[Config]:
    """A trial's configuration with each of `seeds` new seeds, which no trial of the sweep had."""
    searched = sweep.search.space.get("seed", [])
    used = {sweep.seed, sweep.train.seed, *(searched if isinstance(searched, list) else [searched.high])}
    first = 1 + max(int(seed) for seed in used if seed is not None)
    return [{**_seedless(record.config), "seed": first + i} for i in range(seeds)]


def collect(
    record: TrialRecord, repeats: Sequence[TrialRecord], sweep: config.Sweep, seeds: int
) -> tuple[Mapping[str, float], ...]:
    """The seed, gain, p-value and constraint of each repeat of a trial, at the scale of the trial's candidate.

    A repeat that failed counts as infeasible, with a gain of 0.
    """
    assert record.candidate is not None
    collected = []
    for wanted in fresh(record, sweep, seeds):
        repeat = next(one for one in repeats if dict(one.config) == wanted)
        metrics: Mapping[str, float] = {"gain": 0.0, "p_value": 1.0, "constraint": FAILED_CONSTRAINT}
        if repeat.state == "complete":
            metrics = next(one.metrics for one in (*repeat.scaled, repeat.whole) if one.scale == record.candidate.scale)
        numbers = {key: metrics[key] for key in ("gain", "p_value", "constraint")}
        collected.append({"seed": float(wanted["seed"]), **numbers})
    return tuple(collected)


def _seedless(chosen: Mapping[str, config.Scalar]) -> Config:
    return {key: value for key, value in chosen.items() if key != "seed"}
