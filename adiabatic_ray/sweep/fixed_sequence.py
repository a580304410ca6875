"""Tests candidates on the confirmation sets in a fixed order, from safest to boldest, and stops at the first failure.

The order depends on the selection sets alone and is stored before the first test. So a run that was cut off goes on in
the same order, and the error rate of the whole sequence is that of one test (see `evaluate.guarantee`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from adiabatic_ray import storage
from adiabatic_ray.evaluate import guarantee
from adiabatic_ray.sweep.run import SweepRun
from adiabatic_ray.sweep.workers import encoder_tasks
from adiabatic_ray.trials.record import TrialRecord, best, contenders
from adiabatic_ray.trials.store import TrialStore


def test(run: SweepRun) -> None:
    """Test the candidates of a sweep whose trials have ended, and store what came of each.

    Without confirmation sets nothing is tested. An interrupted run stops after the test that is running.
    """
    if not run.embedded.confirmation:
        return
    order = _order(run.store, run.sweep.budget.confirm)
    pending = _untested(run.store, order)
    candidates = [(run.store.folder.trial(rung.trial), rung.scale, rung.gain) for rung in pending]
    tests = run.tasks.run(encoder_tasks.confirm, run.sweep, run.embedded, candidates)
    for rung, tested in zip(pending, tests, strict=False):
        record = run.store.records[rung.trial]
        run.store.put(dataclasses.replace(record, confirmations=(*record.confirmations, tested)))
        run.console.progress(f"testing candidates from safe to bold, {order.index(rung) + 1}/{len(order)}")
        if run.interrupted.is_set():
            return
    _measure_winner(run)


def _measure_winner(run: SweepRun) -> None:
    """Measure the winner on the selection sets too, if its scale was only predicted there."""
    winner = best(run.store.records.values())
    if winner is None or winner.candidate is None:
        return
    scale = winner.candidate.scale
    if scale in {one.scale for one in (*winner.scaled, winner.whole)}:
        return
    folder = run.store.folder.trial(winner.number)
    for measured in run.tasks.run(encoder_tasks.measure_selected, run.sweep, run.embedded, folder, scale):
        scaled = tuple(sorted((*winner.scaled, measured), key=lambda one: one.scale))
        run.store.put(dataclasses.replace(winner, scaled=scaled))


def _order(store: TrialStore, count: int) -> list[guarantee.Rung]:
    """The stored order if it was made for the same trials, or else a new one, which is stored."""
    trials = [record.number for record in store.finished()]
    earlier = store.orders()
    if not earlier or earlier[-1]["trials"] != trials or earlier[-1]["count"] != count:
        # If the user raised `budget.confirm`, the displacements of some trials are deleted already.
        kept = [
            r for r in contenders(store.records.values()) if storage.exists(store.folder.trial(r.number).displacement)
        ]
        order = guarantee.sequence([rung for record in kept for rung in _rungs(record)], count)
        store.put_order({"trials": trials, "count": count, "order": [dataclasses.asdict(rung) for rung in order]})
        return order
    return [guarantee.Rung(**rung) for rung in earlier[-1]["order"]]


def _rungs(record: TrialRecord) -> Iterator[guarantee.Rung]:
    """The candidates of a trial that selection finds feasible: along its profile, and those that were measured."""
    for point in record.profile:
        if point.constraint <= 0:
            yield guarantee.Rung(record.number, point.scale, point.gain, point.evidence)
    profiled = {point.scale for point in record.profile}
    for one in (*record.scaled, record.whole):
        if one.scale not in profiled and one.metrics["constraint"] <= 0:
            # Earlier versions measured no evidence, but the constraint, which orders candidates alike.
            yield guarantee.Rung(
                record.number, one.scale, one.gain, one.metrics.get("bound/evidence", -one.metrics["constraint"])
            )


def _untested(store: TrialStore, order: list[guarantee.Rung]) -> list[guarantee.Rung]:
    """The rungs that are left to test: none after a failure."""
    done = 0
    for rung in order:
        tested = [one for one in store.records[rung.trial].confirmations if one.scale == rung.scale]
        if not tested:
            break
        if tested[0].failure:
            return []
        done += 1
    return order[done:]
