"""Confirmation with fresh seeds: the best configurations trained again, and measured on the confirmation sets alone.

A selected trial was the best of many, so its numbers flatter it. Its configuration, trained again with seeds that had
no part in the selection and measured on data that had none either, shows what it is worth; the one that stays feasible
most often wins, and not the luckiest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from adiabatic_ray import config, errors, sweep_file
from adiabatic_ray.report.ledger import FAILED_CONSTRAINT, Ledger, Record, best, contenders, exists
from adiabatic_ray.sweep import driver, materials, nodes, resources, session, waiting, workbench
from adiabatic_ray.sweep.books import Books
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.materials import Data
from adiabatic_ray.sweep.searcher import ListSearch
from adiabatic_ray.sweep.space import Config
from adiabatic_ray.sweep.tuning import run_trials
from adiabatic_ray.sweep.workbench import Workplace


def run(ledger: Ledger, top: int, seeds: int, console: Console) -> Record | None:
    """Train the `top` best feasible configurations with `seeds` fresh seeds each; the winner.

    Its trials lie in the sweep's folder `confirmation`, and what was finished there is not repeated.

    Raises:
        AdiabaticRayError: there is nothing to confirm, or nothing to confirm it on.
        KeyboardInterrupt: the user stopped it; running it again goes on with it.
    """
    sweep = sweep_file.rebuild(ledger.settings)
    if not sweep.evaluate.confirmation:
        raise errors.SweepError(
            f"{sweep.name} names no confirmation sets, so nothing can be confirmed. Add `evaluate.confirmation` to its "
            "file, with data that no trial was selected on, and run it under another `name`."
        )
    with session.sole_owner(ledger.folder), session.interruptible() as interrupted:
        ledger = Ledger(ledger.folder)  # as it is now that nobody else writes to it
        chosen = choose(ledger, top)
        configs = [config_ for record in chosen for config_ in fresh(record, sweep, seeds)]
        again = dataclasses.replace(
            sweep,
            evaluate=config.Evaluate(selection=sweep.evaluate.confirmation, scales=sweep.evaluate.scales),
            budget=config.Budget(failed_trials=sweep.budget.failed_trials, stop_harmful=False, confirm=1),
            search=config.Search(
                objective=sweep.search.objective,
                method="grid",
                space={"seed": [one["seed"] for one in configs[:seeds]]},
            ),
        )
        folder = ledger.folder / "confirmation"
        repeats = Ledger(folder) if exists(folder) else Ledger.create(folder, config.resolved(again))
        data = materials.read(sweep)
        sweep, again = materials.for_all_nodes(sweep), materials.for_all_nodes(again)
        with session.connected() as own:
            layout = resources.plan(sweep.resources, nodes.now(), len(configs))
            console.say(f"{sweep.name}: {len(chosen)} configurations with {seeds} seeds each, {layout}")
            waiting.for_place(layout, console, interrupted)
            place = Workplace(sweep.model, layout, here=own and not layout.gpus)
            shared = driver.fill(again, Data(data.train, data.confirmation, {}), place, repeats, console, interrupted)

            def changed(record: Record) -> None:
                console.changed(record, repeats.records, len(configs))

            books = Books(repeats, ListSearch(configs), again.budget, changed, interrupted, sweep.resources.retries)
            try:
                if not books.over:
                    run_trials(books, again, shared, layout, console)
            finally:
                console.clear()
            if interrupted.is_set():
                raise KeyboardInterrupt
            if books.failed:
                raise errors.SweepError(books.over)
            for record in chosen:
                ledger.put(dataclasses.replace(record, repeats=collect(record, repeats.finished(), sweep, seeds)))
            console.repeats(ledger.records.values())
            mirror = driver.Mirror(sweep, ledger, data)
            driver.hand_over(ledger, place, console)
            driver.finish(sweep, ledger, mirror, console, "FINISHED")
    return best(ledger.records.values())


def choose(ledger: Ledger, top: int) -> list[Record]:
    """The best trials of different configurations that can be handed over, and that confirmation has not refuted.

    Raises:
        SweepError: there is none.
    """
    chosen: dict[str, Record] = {}
    for record in contenders(ledger.records.values()):
        key = repr(sorted(_seedless(record.config).items()))
        # Earlier repetitions do not count, whatever they showed: asked for again, the same trials are chosen.
        refuted = dataclasses.replace(record, repeats=()).confirmed is False
        if key not in chosen and not refuted and workbench.kept(ledger.trial_folder(record.number)):
            chosen[key] = record
        if len(chosen) == top:
            break
    if not chosen:
        raise errors.SweepError(
            f"{ledger.settings['name']} has no feasible trial to confirm that is better than the untouched encoder and "
            "was not refuted; search smaller learning rates, or stronger freezing masks, in a sweep of another name."
        )
    return list(chosen.values())


def fresh(record: Record, sweep: config.Sweep, seeds: int) -> list[Config]:
    """A trial's configuration with seeds that no trial of the sweep had."""
    searched = sweep.search.space.get("seed", [])
    used = {sweep.seed, sweep.train.seed, *(searched if isinstance(searched, list) else [searched.high])}
    first = 1 + max(int(seed) for seed in used if seed is not None)
    return [{**_seedless(record.config), "seed": first + i} for i in range(seeds)]


def collect(
    record: Record, repeats: Sequence[Record], sweep: config.Sweep, seeds: int
) -> tuple[Mapping[str, float], ...]:
    """What became of a trial's repetitions, at the scale of its candidate."""
    assert record.candidate is not None
    found = []
    for wanted in fresh(record, sweep, seeds):
        repeat = next(one for one in repeats if dict(one.config) == wanted)
        metrics: Mapping[str, float] = {"gain": 0.0, "p_value": 1.0, "constraint": FAILED_CONSTRAINT}
        if repeat.state == "complete":
            metrics = next(one.metrics for one in (*repeat.scaled, repeat.whole) if one.scale == record.candidate.scale)
        numbers = {key: metrics[key] for key in ("gain", "p_value", "constraint")}
        found.append({"seed": float(wanted["seed"]), **numbers})
    return tuple(found)


def _seedless(chosen: Mapping[str, config.Scalar]) -> Config:
    return {key: value for key, value in chosen.items() if key != "seed"}
