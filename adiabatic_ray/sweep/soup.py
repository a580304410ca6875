"""Adds up the displacements of the best trials when the last one has ended, as one more trial of the sweep."""

from __future__ import annotations

from adiabatic_ray import storage
from adiabatic_ray.sweep.run import SweepRun
from adiabatic_ray.sweep.workers import soups
from adiabatic_ray.trials.record import SOUP, trained
from adiabatic_ray.trials.store import TrialStore

PARTS = 6  # trials


def add(run: SweepRun) -> None:
    """Store the sum of displacements that gains most at its edge as a trial, if the sweep wants that (`search.soup`).

    It is chosen on the selection sets alone, before the confirmation sets are touched. An interrupted run stores
    nothing, and the next one begins again. Where trials are added later, another sum follows them.
    """
    latest = max(run.store.records)
    if not run.sweep.search.soup or run.store.records[latest].is_soup:
        return
    added = parts(run.store)
    if len(added) < 2:
        return
    number, folder = latest + 1, run.store.folder.trial(latest + 1)
    run.console.progress("adding up the displacements of the best trials")
    for record in run.tasks.run(soups.stir, run.sweep, run.embedded, added, number, folder):
        run.console.progress(f"adding up the displacements of the best trials: so far {record.config[SOUP]}")
        if run.interrupted.is_set():
            return
    run.console.clear()
    run.store.put(record)
    run.console.trial_ended(record)


def parts(store: TrialStore) -> list[soups.Part]:
    """The trials that gain most at their edges, from best to worst, of those whose displacements were kept."""
    found = []
    for record in trained(store.records.values()):
        folder, edge = store.folder.trial(record.number), record.edge
        if edge is not None and edge.gain > 0 and storage.exists(folder.displacement):
            found.append(soups.Part(record.number, folder, edge.scale, edge.gain))
    return sorted(found, key=lambda part: -part.gain)[:PARTS]
