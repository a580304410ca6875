"""What a sweep hands over: the best candidate as a query encoder, and as one model with the untouched document side."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path

from adiabatic_ray import config, errors, storage, sweep_file
from adiabatic_ray.model import encoder, export
from adiabatic_ray.model.export import QUERY_ENCODER, RETRIEVAL_MODEL
from adiabatic_ray.report import card
from adiabatic_ray.report.ledger import UNTOUCHED, Ledger, Record, best, contenders, ranked, write
from adiabatic_ray.sweep import found, workbench
from adiabatic_ray.sweep.workbench import RECORD, Workplace

__all__ = ["QUERY_ENCODER", "RETRIEVAL_MODEL", "folder", "holds", "replace", "write_out"]


def folder(ledger: Ledger) -> Path:
    """Where a sweep keeps its winner."""
    return ledger.folder / "best"


def holds(ledger: Ledger, winner: Record) -> bool:
    """Whether the folder holds this winner, with all that is known of it."""
    stored = storage.read(folder(ledger) / RECORD)
    return stored is not None and json.loads(stored) == json.loads(json.dumps(dataclasses.asdict(winner)))


def replace(ledger: Ledger, winner: Record, place: Workplace) -> None:
    """Put the winner into the folder, in one piece."""
    assert winner.candidate is not None
    what = ledger.trial_folder(winner.number), winner.candidate.scale, card.render(ledger, winner)
    list(place.run(workbench.export_encoder, *what, dataclasses.asdict(winner), folder(ledger)))


# ---- the command ---------------------------------------------------------------------------------------------------


def write_out(where: str, out: Path, number: int | None, *, force: bool) -> Record:
    """Write a trial's models to `out`, the sweep's best where no number is given; the trial.

    `where` is a sweep's folder or file, a trial's folder, or the id of a run in MLflow. With `force` a trial goes out
    that harms a language or was refuted; its card says so.

    Raises:
        SweepError: there is no such sweep or trial, it has nothing to hand over, or `out` holds something else.
        ModelError: the base model cannot be loaded.
    """
    ledger, named = _resolve(where)
    if named is not None and number not in (None, named):
        raise errors.SweepError(f"{where} is trial {named}, but --trial says {number}. Leave one of them out.")
    record = _chosen(ledger, named if number is None else number, force)
    out = out.expanduser().resolve()
    _check_free(out)
    scale = (record.candidate or record.whole).scale
    displacement = workbench.displacement(ledger.trial_folder(record.number), scale)
    model = encoder.load(sweep_file.rebuild(ledger.settings).model)
    unknown = [name for name in displacement if name not in model.parameters]
    misshapen = [n for n, d in displacement.items() if n not in unknown and d.shape != model.parameters[n].shape]
    if unknown or misshapen:
        raise errors.SweepError(
            f"trial {record.number} does not fit {model.settings.name}: its displacement moves "
            f"`{(unknown + misshapen)[0]}`, which the model {'lacks' if unknown else 'has in another shape'}. It was "
            "tuned from another model of that name; give the sweep its own again."
        )
    with storage.building(out, last=RECORD) as partial:
        export.hand_over(model, partial, displacement, card.render(ledger, record))
        write(partial / RECORD, dataclasses.asdict(record))
    return record


def _resolve(where: str) -> tuple[Ledger, int | None]:
    """The sweep, and the trial where a trial's folder or run was given."""
    path = Path(where).expanduser()
    if not path.exists() and re.fullmatch(r"[0-9a-f]{32}", where):
        from adiabatic_ray.report import runs  # MLflow takes seconds to import

        return runs.find(where)
    trial = storage.folder(where)
    if trial.parent.name == "trials" and re.fullmatch(r"\d{4,}", trial.name):
        return found.find(str(trial.parent.parent)), int(trial.name)
    return found.find(where), None


def _chosen(ledger: Ledger, number: int | None, force: bool) -> Record:
    """The trial to export."""
    tuned = {n: r for n, r in sorted(ledger.records.items()) if n != UNTOUCHED}
    if number is None:
        winner = best(ledger.records.values())
        if winner is not None:
            return winner
        nearest = _nearest(ledger, tuned)
        if force:
            return nearest
        refuted = [record for record in tuned.values() if record.confirmed is False]
        none = (
            f"none of the {len(refuted)} best trials of {ledger.folder} stayed feasible in confirmation"
            if refuted
            else f"no trial of {ledger.folder} is feasible and better than the untouched encoder"
        )
        raise errors.SweepError(f"{none}; the nearest is {_violation(nearest)}. {_way_out(ledger, nearest)}")
    if number == UNTOUCHED:
        name = ledger.settings["model"]["name"]
        raise errors.SweepError(f"trial 0 is the untouched encoder, {name} itself; there is nothing to export.")
    if number not in tuned:
        raise errors.SweepError(
            f"{ledger.folder} has no trial {number}; it has {_numbers(tuned) or 'none'} beside the untouched encoder."
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
        raise errors.SweepError(f"{_violation(record)}. {_way_out(ledger, record)}".removeprefix("the "))
    return record


def _nearest(ledger: Ledger, tuned: dict[int, Record]) -> Record:
    """The least infeasible trial: a refuted one where there are any, by how far it was from being confirmed."""
    refuted = [record for record in contenders(tuned.values()) if record.confirmed is False]
    if refuted:
        return min(refuted, key=lambda record: (record.confirmation.get("constraint", 0.0), -record.steadiness[0]))
    complete = [record for record in ranked(tuned.values()) if record.state == "complete"]
    if not complete:
        raise errors.SweepError(
            f"{ledger.folder} holds no trial that ran to its end, so there is nothing to export. Go on with the sweep, "
            "or search smaller learning rates in a sweep of another name."
        )
    return complete[0]


def _violation(record: Record) -> str:
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


def _way_out(ledger: Ledger, record: Record) -> str:
    if record.candidate and not record.candidate.gain > 0:
        return "Search larger learning rates, or more steps, in a sweep of another name."
    if workbench.kept(ledger.trial_folder(record.number)):
        return "Search smaller learning rates, or export it all the same with --force; its card will say so."
    return "Search smaller learning rates in a sweep of another name (this trial's displacement was not kept)."


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _check_free(out: Path) -> None:
    """Refuse to replace anything but an earlier export."""
    if not out.exists():
        return
    if not out.is_dir():
        raise errors.SweepError(f"{out} is a file. Name a folder that is new, empty, or an earlier export.")
    names = {path.name for path in out.iterdir()}
    if names and not {RECORD, QUERY_ENCODER} <= names <= {RECORD, QUERY_ENCODER, RETRIEVAL_MODEL}:
        raise errors.SweepError(
            f"{out} is not empty and not only an earlier export (it holds {config.listed(sorted(names)[:5])}). Name "
            "another folder."
        )
