"""A sweep from its file to its result: data, frozen documents, trials on Ray Tune, confirmation, report, model.

Everything needed to go on lies in the sweep's folder (see `report.ledger`), and none of it in Ray. So a sweep that was
cut off, in whatever way, goes on when it is run again: finished trials are read back, unfinished ones continue from
their checkpoints, and Tune is only ever handed what is left to do.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

from adiabatic_ray import config, errors, storage
from adiabatic_ray.report.ledger import UNTOUCHED, Ledger, Point, Record, best, contenders, exists, ranked
from adiabatic_ray.sweep import (
    handover,
    materials,
    nodes,
    preview,
    reporting,
    resources,
    searcher,
    session,
    waiting,
    workbench,
)
from adiabatic_ray.sweep.books import Books
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.local import cache_folder
from adiabatic_ray.sweep.materials import Data, Filling, Materials
from adiabatic_ray.sweep.tuning import run_trials
from adiabatic_ray.sweep.workbench import Workplace


def run(sweep: config.Sweep, console: Console) -> Record | None:
    """Run a sweep, or go on with it; the best feasible trial.

    Raises:
        AdiabaticRayError: anything that the user can mend; nothing that was finished is lost.
        KeyboardInterrupt: the user stopped the sweep; running it again goes on with it.
    """
    session.require_lasting(sweep)
    folder = storage.folder(sweep.storage) / sweep.name
    with session.sole_owner(folder), session.interruptible() as interrupted:
        ledger = _open(folder, sweep, console)
        data = materials.read(sweep)
        console.dropped(data.all())
        sweep = materials.for_all_nodes(sweep)
        with session.connected() as own:
            layout = resources.plan(sweep.resources, nodes.now(), preview.number_of_trials(sweep))
            console.say(f"{sweep.name}: {preview.describe_trials(sweep)}, {layout}; results in {folder}")
            waiting.for_place(layout, console, interrupted)
            place = workbench.Workplace(sweep.model, layout, here=own and not layout.gpus)
            shared = fill(sweep, data, place, ledger, console, interrupted)
            mirror = Mirror(sweep, ledger, data)
            books = _books(sweep, ledger, mirror, console, interrupted)
            status = "FAILED"
            try:
                if not books.over:
                    run_trials(books, sweep, shared, layout, console)
                if not interrupted.is_set():
                    _confirm(sweep, ledger, shared, place, console, interrupted)
                status = "FAILED" if books.failed else "FINISHED"
            finally:
                console.clear()
                finish(sweep, ledger, mirror, console, "KILLED" if interrupted.is_set() else status)
    if interrupted.is_set():
        raise KeyboardInterrupt
    if books.failed:
        raise errors.SweepError(books.over)
    console.say(f"the sweep is over: {books.over or 'its hours are up; run the same command to go on'}")
    return best(ledger.records.values())


# ---- before --------------------------------------------------------------------------------------------------------


def _open(folder: Path, sweep: config.Sweep, console: Console) -> Ledger:
    """The sweep's ledger, new or from an earlier run of the same sweep."""
    settings = config.resolved(sweep)
    if not exists(folder):
        return Ledger.create(folder, settings)
    ledger = Ledger(folder)
    changed = config.differences(ledger.settings, settings)
    if changed and ledger.records:  # without any, an earlier run failed on its settings, and these may mend it
        raise errors.SweepError(
            f"{folder} holds a sweep with other settings:\n  "
            + "\n  ".join(changed)
            + f"\nGive this one another `name`, or take its settings back, or delete {folder}."
        )
    ledger.resettle(settings)
    done = len([record for record in ledger.finished() if record.number != UNTOUCHED])
    console.say(f"{sweep.name}: going on after {done} finished trials")
    return ledger


def fill(
    sweep: config.Sweep,
    data: Data,
    place: Workplace,
    ledger: Ledger,
    console: Console,
    interrupted: threading.Event,
) -> Materials:
    """Fill the cache, and record the untouched encoder as trial 0."""
    console.progress("preparing to embed the frozen documents")
    for item in workbench.fill(place, sweep, data, cache_folder(sweep), ledger.trial_folder(UNTOUCHED)):
        if interrupted.is_set():
            raise KeyboardInterrupt
        if isinstance(item, Filling):
            console.filling(item)
    assert isinstance(item, tuple)
    shared, selection, confirmation = item
    if UNTOUCHED not in ledger.records:
        now = time.time()
        points = (Point(0, now, selection),)
        ledger.put(Record(UNTOUCHED, {}, "complete", "", now, now, points, confirmation=confirmation))
    console.clear()
    console.untouched(ledger.records[UNTOUCHED])
    return shared


def _books(
    sweep: config.Sweep, ledger: Ledger, mirror: Mirror, console: Console, interrupted: threading.Event
) -> Books:
    trials = preview.number_of_trials(sweep)

    def changed(record: Record) -> None:
        mirror.notify()
        console.changed(record, ledger.records, trials)

    search = searcher.create(sweep.search, sweep.seed, sweep.budget.trials)
    return Books(ledger, search, sweep.budget, changed, interrupted, sweep.resources.retries)


# ---- after ---------------------------------------------------------------------------------------------------------


def _confirm(
    sweep: config.Sweep,
    ledger: Ledger,
    shared: Materials,
    place: Workplace,
    console: Console,
    interrupted: threading.Event,
) -> None:
    """Measure the best candidates on the confirmation sets, and export the best."""
    first = contenders(ledger.records.values())[: sweep.budget.confirm]
    # A budget that was raised since may ask for trials whose displacements were not kept.
    chosen = [record for record in first if workbench.kept(ledger.trial_folder(record.number))]
    pending = [record for record in chosen if not record.confirmation] if shared.confirmation else []
    candidates = [(ledger.trial_folder(r.number), r.candidate.scale) for r in pending if r.candidate]
    found = place.run(workbench.confirm, sweep, shared, candidates)
    for done, (record, metrics) in enumerate(zip(pending, found, strict=False), start=1):
        console.progress(f"confirming the best trials, {done}/{len(pending)}")
        ledger.put(dataclasses.replace(record, confirmation=metrics))
        if interrupted.is_set():
            return
    hand_over(ledger, place, console)


def hand_over(ledger: Ledger, place: Workplace, console: Console) -> None:
    """Export the best trial's encoder, where that was not done before."""
    winner = best(ledger.records.values())
    if winner is None:
        storage.remove(handover.folder(ledger))  # from an earlier run, before it was refuted
    elif not handover.holds(ledger, winner):
        console.progress("exporting the best encoder")
        handover.replace(ledger, winner, place)
    console.clear()


def finish(sweep: config.Sweep, ledger: Ledger, mirror: Mirror, console: Console, status: str) -> None:
    """Write the report, bring MLflow up to date, and say where everything is."""
    records = list(ledger.records.values())
    winner = best(records)
    console.progress("writing the report")
    report = reporting.write(ledger)
    console.clear()
    console.leaderboard(records, sweep.search.objective)
    console.progress("bringing MLflow up to date")
    exported = handover.folder(ledger) if winner is not None and handover.holds(ledger, winner) else None
    trouble = mirror.finish(report, winner, exported, status)
    console.clear()
    tuned = [record for record in records if record.number != UNTOUCHED]
    refuted = [record for record in tuned if record.confirmed is False]
    if refuted and winner is None:
        console.say(
            f"none of the {len(refuted)} best feasible trials stayed feasible in confirmation, so none is handed over; "
            "search smaller learning rates, or confirm more (`budget.confirm`) in a sweep of another name"
        )
    elif winner is None and status == "FINISHED" and tuned:
        nearest = ranked(tuned)[0]
        if nearest.candidate:
            console.say(
                f"no feasible trial is better than the untouched encoder, so none is handed over; the best is trial "
                f"{nearest.number}, gain {nearest.candidate.gain:+.2f}%; search larger learning rates, or more steps"
            )
        else:
            console.say(
                f"no trial is feasible; nearest is trial {nearest.number}, constraint {nearest.constraint:+.2f}"
            )
    if winner is not None and exported is not None:
        console.say(f"best query encoder: {exported / handover.QUERY_ENCODER} (trial {winner.number})")
    console.say(f"report: {ledger.folder / 'report.html'}")
    if trouble:
        console.say(f"MLflow at {mirror.uri} is behind ({trouble}); run the same command again to bring it up to date")
    elif mirror.uri.startswith("sqlite"):
        console.say(f"MLflow: mlflow server --backend-store-uri {mirror.uri}")
    else:
        console.say(f"MLflow: {mirror.uri}")
    if status == "KILLED":
        console.say("stopped; run the same command to go on")


class Mirror:
    """MLflow for one run of a sweep: kept up to date on a thread, and brought to its final state at the end."""

    def __init__(self, sweep: config.Sweep, ledger: Ledger, data: Data) -> None:
        from adiabatic_ray.report import tracking  # MLflow takes seconds to import, and the embedding goes first

        uri = sweep.mlflow.uri or tracking.default_uri(ledger.folder.parent)
        self.uri = tracking.without_password(uri)  # to be shown
        self._mirror = tracking.Mirror(ledger, uri, sweep.mlflow.experiment, materials.described(sweep, data))
        self._tracker = tracking.Tracker(self._mirror)

    def notify(self) -> None:
        self._tracker.notify()

    def finish(self, report: list[Path], winner: Record | None, encoder: Path | None, status: str) -> str:
        """Deliver the rest; why not everything could be delivered, or an empty text."""

        def deliver() -> None:
            self._mirror.sync(ending=True)
            self._mirror.log_artifacts(report)
            if winner is not None and winner.candidate is not None:
                candidate = winner.candidate
                metrics = {**candidate.metrics, **{f"confirmation/{k}": v for k, v in winner.confirmation.items()}}
                tags = {"trial": str(winner.number), "scale": f"{candidate.scale:g}", "worst": candidate.worst}
                self._mirror.log_summary(metrics, {f"best.{key}": value for key, value in tags.items()})
            if encoder is not None and winner is not None:
                self._mirror.log_model(encoder / handover.QUERY_ENCODER, winner)
            elif winner is None:
                self._mirror.drop_champion()
            self._mirror.close(status)

        return self._tracker.finish(deliver)
