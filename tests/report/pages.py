"""What a report's page is made of where nothing was trained, and what it says."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

import torch

from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report.evidence import Evidence
from adiabatic_ray.report.regime import Change, Regime
from adiabatic_ray.trials.record import TrialRecord, best
from adiabatic_ray.trials.store import TrialStore
from tests.records import checked
from tests.report.sweeps import MASKS

LANGUAGES = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]
IMPORTANCES = {
    "gain": {"learning_rate": 0.71, "freeze": 0.12, "batch_size": 0.1, "margin": 0.07},
    "constraint": {"learning_rate": 0.83, "freeze": 0.1, "batch_size": 0.02, "margin": 0.05},
}
NOTHING = Evidence({}, {}, {}, [], [])


def keep_outcomes(store: TrialStore) -> None:
    """Store outcomes of trial 0, and of the winner at its scale."""
    winner = best(store.records.values())
    assert winner is not None
    assert winner.candidate is not None
    random = torch.Generator().manual_seed(0)
    size = (400, 2, len(LANGUAGES), len(LANGUAGES))
    base = torch.rand(size, generator=random) < 0.25
    drift = torch.linspace(-0.01, 0.03, len(LANGUAGES))[:, None]
    tuned = base ^ (torch.rand(size, generator=random) < torch.where(base, 0.12, 0.02 + 0.3 * drift.clamp(min=0)))
    for number, scale, outcome in ((0, 1.0, base), (winner.number, winner.candidate.scale, tuned)):
        path = store.folder.trial(number).outcomes
        outcomes.save(path, Outcomes({scale: {"xnli": outcome}}, {"xnli": LANGUAGES}, similarity="euclidean"))


def evidence(store: TrialStore, **changes: Any) -> Evidence:
    """Made-up evidence for a sweep, with other values for some of its fields."""

    def around(record: TrialRecord) -> dict[str, Interval]:
        sets = ("msmarco", "xnli", "arxiv")
        values = {name: record.metrics[f"improvement/{name}"] for name in sets}
        return {name: Interval(v, v - 1 - 0.1 * abs(v), v + 1 + 0.1 * abs(v)) for name, v in values.items()}

    shown = [record for record in store.records.values() if record.number and record.points]
    rates = tuple(sorted({record.config["learning_rate"] for record in shown}))
    winner = best(store.records.values())
    made = Evidence(
        {record.number: around(record) for record in shown},
        {"msmarco": Interval(7.5, 6.25, 8.75)} if winner else {},
        {"msmarco": Interval(6.5, 5.125, 7.875)} if winner and winner.confirmation else {},
        [
            Regime(MASKS[0], rates, 9, Change(3e-7, 4e-7, 2.5e-7, 5e-7), Change(2e-8, 5e-8, None, 6e-8)),
            Regime(MASKS[1], rates, 8, Change(6e-7, 8e-7, 4e-7, None), None),
        ],
        [],
    )
    return dataclasses.replace(made, **changes)


def confirm(store: TrialStore, constraint: float, **changes: Any) -> TrialRecord:
    """Confirm the best trial."""
    winner = best(store.records.values())
    assert winner is not None
    gained = {"gain": 6.5, "p_value": 0.0021, "p_value/msmarco": 0.0021, "improvement/msmarco": 6.5}
    confirmation = gained | {"constraint": constraint, "constraint/worst_z": 3.21, "improvement/xnli": 0.12}
    store.records[winner.number] = dataclasses.replace(
        winner, confirmations=checked(confirmation, _scale(winner)), **changes
    )
    return store.records[winner.number]


def _scale(winner: TrialRecord) -> float:
    assert winner.candidate is not None
    return winner.candidate.scale


def text_of(path: Path, part: str = "") -> str:
    """What a page says: in its element that begins with `part`, or all of it."""
    body = path.read_text().partition("<body>")[2].partition("<script>")[0]
    if part:
        element = body[body.index(part) :]
        tag = part[1:].split()[0]
        body = element[: element.index(f"</{tag}>")]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())
