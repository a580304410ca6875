"""What a sweep hands over: the best candidate as a query encoder, and as one model with the untouched document side."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from adiabatic_ray.model.export import QUERY_ENCODER
from adiabatic_ray.report import card
from adiabatic_ray.report.ledger import Ledger, Record, write
from adiabatic_ray.sweep import workbench
from adiabatic_ray.sweep.workbench import Workplace

__all__ = ["QUERY_ENCODER", "folder", "holds", "replace"]


def folder(ledger: Ledger) -> Path:
    """Where a sweep keeps its winner."""
    return ledger.folder / "best"


def holds(ledger: Ledger, winner: Record) -> bool:
    """Whether the folder holds this winner, with all that is known of it."""
    path = folder(ledger) / "trial.json"
    return path.is_file() and json.loads(path.read_text()) == json.loads(json.dumps(dataclasses.asdict(winner)))


def replace(ledger: Ledger, winner: Record, place: Workplace) -> None:
    """Put the winner into the folder, in one piece."""
    assert winner.candidate is not None
    partial = ledger.folder / ".best.partial"
    shutil.rmtree(partial, ignore_errors=True)
    text = card.render(ledger, winner)
    trial_folder = ledger.trial_folder(winner.number)
    list(place.run(workbench.export_encoder, trial_folder, winner.candidate.scale, text, partial))
    write(partial / "trial.json", dataclasses.asdict(winner))
    shutil.rmtree(folder(ledger), ignore_errors=True)
    partial.rename(folder(ledger))
