"""Exports candidates, each as a query encoder and as one model with the untouched document side."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path

from adiabatic_ray import config, errors, storage
from adiabatic_ray.model import encoder
from adiabatic_ray.report import card
from adiabatic_ray.sweep import lookup
from adiabatic_ray.sweep.workers import encoder_tasks
from adiabatic_ray.trials.layout import ExportFolder, TrialFolder
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, best, contenders, ranked
from adiabatic_ray.trials.store import TrialStore


def holds(store: TrialStore, winner: TrialRecord) -> bool:
    """Whether the sweep's folder `best` holds this winner with the same record."""
    stored = storage.read(store.folder.best.record)
    return stored is not None and json.loads(stored) == json.loads(json.dumps(dataclasses.asdict(winner)))


def replace(store: TrialStore, winner: TrialRecord, tasks: encoder_tasks.EncoderTasks) -> None:
    """Export the winner to the sweep's folder `best`, atomically."""
    trial, text = store.folder.trial(winner.number), card.render(store, winner)
    list(tasks.run(encoder_tasks.export_candidate, trial, winner, text, store.folder.best))


def write_out(where: str, out: Path, number: int | None, *, force: bool) -> TrialRecord:
    """Write the models of trial `number`, or of the sweep's best trial, to `out`. Return the trial's record.

    `where` is a sweep's folder or file, a trial's folder, or the id of a run in MLflow. With `force`, a trial is
    written even if it harms a language or was refuted, and its card says so.

    Raises:
        SweepError: there is no such sweep or trial, it has nothing to hand over, or `out` holds something else.
        ConfigError: the sweep file cannot be used.
        ModelError: the base model cannot be loaded.
    """
    store, named = _resolve(where)
    if named is not None and number not in (None, named):
        raise errors.SweepError(f"{where} is trial {named}, but --trial says {number}. Leave one of them out.")
    record = _chosen(store, named if number is None else number, force)
    out = out.expanduser().resolve()
    _check_free(ExportFolder(out))
    trial, base = store.folder.trial(record.number), encoder.load(store.sweep.model)
    list(encoder_tasks.export_candidate(base, trial, record, card.render(store, record), ExportFolder(out)))
    return record


def _resolve(where: str) -> tuple[TrialStore, int | None]:
    """The store of the sweep, and the trial's number if `where` is a trial's folder or run."""
    path = Path(where).expanduser()
    if not path.exists() and re.fullmatch(r"[0-9a-f]{32}", where):
        from adiabatic_ray.tracking import lookup as tracked  # MLflow takes seconds to import

        return tracked.find(where)
    place = TrialFolder(storage.folder(where)).place
    if place is not None:
        folder, number = place
        return lookup.find(str(folder.path)), number
    return lookup.find(where), None


def _chosen(store: TrialStore, number: int | None, force: bool) -> TrialRecord:
    """The record of the trial to export."""
    tuned = {n: r for n, r in sorted(store.records.items()) if n != UNTOUCHED}
    if number is None:
        winner = best(store.records.values())
        if winner is not None:
            return winner
        nearest = _nearest(store, tuned)
        if force:
            return nearest
        refuted = [record for record in tuned.values() if record.confirmed is False]
        none = (
            f"no candidate of {store.folder.path} was shown to be harmless in confirmation"
            if refuted
            else f"no trial of {store.folder.path} is feasible and better than the untouched encoder"
        )
        raise errors.SweepError(f"{none}; the nearest is {_violation(nearest)}. {_way_out(store, nearest)}")
    if number == UNTOUCHED:
        name = store.sweep.model.name
        raise errors.SweepError(f"trial 0 is the untouched encoder, {name} itself; there is nothing to export.")
    if number not in tuned:
        raise errors.SweepError(
            f"{store.folder.path} has no trial {number}; it has {_numbers(tuned) or 'none'} beside the untouched "
            "encoder."
        )
    record = tuned[number]
    if record.state != "complete":
        reason = f": {record.reason}" if record.reason else ""
        said = "is not finished" if record.state == "running" else f"ended as {record.state}{reason}"
        raise errors.SweepError(
            f"trial {number} {said}; only trials that ran to their end can be exported: "
            f"{_numbers(r.number for r in tuned.values() if r.state == 'complete') or 'none so far'}."
        )
    if not force and (record.candidate is None or record.confirmed is False):
        raise errors.SweepError(f"{_violation(record)}. {_way_out(store, record)}".removeprefix("the "))
    return record


def _nearest(store: TrialStore, tuned: dict[int, TrialRecord]) -> TrialRecord:
    """The trial that misses the constraint least: a refuted one by its confirmation, or else an infeasible one."""
    refuted = [record for record in contenders(tuned.values()) if record.confirmed is False]
    if refuted:
        return min(refuted, key=lambda record: (record.confirmation.get("constraint", 0.0), -record.repeat_score[0]))
    complete = [record for record in ranked(tuned.values()) if record.state == "complete"]
    if not complete:
        raise errors.SweepError(
            f"{store.folder.path} holds no trial that ran to its end, so there is nothing to export. Go on with the "
            "sweep, or search smaller learning rates in a sweep of another name."
        )
    return complete[0]


def _violation(record: TrialRecord) -> str:
    if record.confirmed is False:
        return (
            f"trial {record.number}, which was refuted on the confirmation sets: {record.refutation}; on selection its "
            f"worst pair was {(record.candidate.worst if record.candidate else record.worst) or 'not recorded'}"
        )
    if record.candidate:
        return f"trial {record.number}, which is feasible, but gains {record.candidate.gain:+.2f}%"
    return (
        f"trial {record.number}, which is infeasible: its constraint is {record.constraint or 0.0:+.2f} (feasible at 0 "
        f"or below), its worst pair {record.worst or 'not recorded'}"
    )


def _way_out(store: TrialStore, record: TrialRecord) -> str:
    if record.candidate and not record.candidate.gain > 0:
        return "Search larger learning rates, or more steps, in a sweep of another name."
    if storage.exists(store.folder.trial(record.number).displacement):
        return "Search smaller learning rates, or export it anyway with --force; its card will say so."
    return "Search smaller learning rates in a sweep of another name (this trial's displacement was not kept)."


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _check_free(out: ExportFolder) -> None:
    """Refuse to replace anything but an earlier export."""
    path = out.path
    if not path.exists():
        return
    if not path.is_dir():
        raise errors.SweepError(f"{path} is a file. Name a folder that is new, empty, or an earlier export.")
    inside, needed = set(path.iterdir()), {out.record, out.query_encoder}
    if inside and not needed <= inside <= {*needed, out.retrieval_model, out.query_adapter}:
        names = sorted(entry.name for entry in inside)[:5]
        raise errors.SweepError(
            f"{path} is not empty and not only an earlier export (it holds {config.listed(names)}). Name another "
            "folder."
        )
