"""Sweeps side by side: the settings that differ, and their winners with paired tests on the same confirmation sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import torch

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate import outcomes, significance
from adiabatic_ray.report import page
from adiabatic_ray.report.assurance import Assurance
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, best
from adiabatic_ray.trials.store import TrialStore


@dataclass(frozen=True)
class Winner:
    """What a sweep hands over; `record` and `guarantee` are `None` where it is nothing."""

    sweep: str
    record: TrialRecord | None
    guarantee: str | None


@dataclass(frozen=True)
class Paired:
    """How much better a sweep's winner is than that of the first sweep on a confirmation set, in percent.

    `reason` says why they cannot be compared; then the numbers are `None`.
    """

    sweep: str
    data: str
    improvement: float | None
    p_value: float | None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """Several sweeps, of which the first is what the others are compared with."""

    sweeps: list[str]
    settings: list[tuple[str, list[str]]]
    winners: list[Winner]
    paired: list[Paired]


def compare(stores: Sequence[TrialStore]) -> Comparison:
    """Compare sweeps. Winners are compared where the untouched encoder has the same outcomes on the same units.

    Raises:
        SweepError: there are fewer than two sweeps.
    """
    if len(stores) < 2:
        raise errors.SweepError("nothing to compare with: name two sweeps or more.")
    names = [store.sweep.name for store in stores]
    if len(set(names)) < len(names):  # of several storages
        names = [str(store.folder.path) for store in stores]
    winners = [best(store.records.values()) for store in stores]
    return Comparison(
        names,
        _settings(stores),
        [Winner(name, one, _guarantee(store, one)) for name, store, one in zip(names, stores, winners, strict=True)],
        [
            pair
            for name, store, winner in list(zip(names, stores, winners, strict=True))[1:]
            for pair in _paired(name, (stores[0], winners[0]), (store, winner))
        ],
    )


def write(compared: Comparison, path: Path) -> Path:
    """Write the comparison as one page of HTML."""
    template: jinja2.Template = page.environment().get_template("comparison.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template.render(compared=compared), encoding="utf-8")
    return path


def _guarantee(store: TrialStore, winner: TrialRecord | None) -> str | None:
    assurance = Assurance.of(store, winner)
    return assurance.sentence if assurance and winner else None


def _settings(stores: Sequence[TrialStore]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all sweeps, by their keys, with the value of each sweep."""
    flat = [dict(config.flat(config.resolved(store.sweep))) for store in stores]
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if key != "name"]
    rows = [(key, [str(one.get(key, "")) for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _paired(
    name: str, first: tuple[TrialStore, TrialRecord | None], other: tuple[TrialStore, TrialRecord | None]
) -> Iterator[Paired]:
    (store_a, a), (store_b, b) = first, other
    if a is None or b is None:
        yield Paired(name, "", None, None, "one of them hands over nothing")
        return
    base_a, base_b, tuned_a, tuned_b = (
        outcomes.load(store.folder.trial(number).confirmation_outcomes) or outcomes.Outcomes({}, {})
        for store, number in ((store_a, UNTOUCHED), (store_b, UNTOUCHED), (store_a, a.number), (store_b, b.number))
    )
    keys = list(base_a.by_scale.get(1.0, {}))
    if not keys:
        yield Paired(name, "", None, None, "there are no outcomes on confirmation sets")
    for key in keys:
        evidence_a, evidence_b = (
            tuned.evidence(key, _scale(record), base)
            for tuned, record, base in ((tuned_a, a, base_a), (tuned_b, b, base_b))
        )
        if evidence_a is None or evidence_b is None:
            yield Paired(name, key, None, None, "one of them was not measured on it")
        elif evidence_a.base.shape != evidence_b.base.shape or not torch.equal(evidence_a.base, evidence_b.base):
            yield Paired(name, key, None, None, "the sets, or the untouched encoders, are not the same")
        else:
            both = dataclasses.replace(evidence_a, base=evidence_a.tuned, tuned=evidence_b.tuned)
            yield Paired(name, key, both.improvement, significance.p_value(both))


def _scale(record: TrialRecord) -> float:
    return record.candidate.scale if record.candidate else 1.0
