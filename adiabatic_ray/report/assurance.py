"""What confirmation proves of an encoder, in numbers and in a sentence: for the page, the card and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from adiabatic_ray import config
from adiabatic_ray.evaluate import guarantee, outcomes
from adiabatic_ray.evaluate.evidence import OVERALL, Guarded
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, tuned
from adiabatic_ray.trials.store import TrialStore


@dataclass(frozen=True)
class Bounds:
    """How much worse a candidate can be on one guard, and how much is allowed, in percent.

    `name` is that of the guard, `overall` the bound of everything, and `languages` are those of the query languages.
    """

    name: str
    overall: float
    margin: float
    languages: Mapping[str, float]
    language_margin: float

    def __str__(self) -> str:
        worst = max(self.languages, key=lambda name: self.languages[name], default=None)
        language = ""
        if worst is not None:
            language = (
                f" and {_at_most(self.languages[worst])} in any language ({worst}; {self.language_margin:g}% allowed)"
            )
        return f"{_at_most(self.overall)} overall ({self.margin:g}% allowed){language}"


@dataclass(frozen=True)
class Assurance:
    """The guarantee of a candidate that passed confirmation.

    `error_rate` is in percent: `alpha` for each order of candidates that was tested on the same confirmation sets.
    `tests` counts the candidates that were tested.
    """

    guards: tuple[Bounds, ...]
    confidence: float
    error_rate: float
    tests: int

    @classmethod
    def of(cls, store: TrialStore, record: TrialRecord | None) -> Assurance | None:
        """`None` if the trial did not pass, or if an earlier version confirmed it, which tested no margins."""
        if record is None or record.confirmed is not True or not record.bounds:
            return None
        constraint = store.sweep.constraint
        return cls(
            guards=tuple(_bounds(guard, record.bounds, len(constraint.guarded) > 1) for guard in constraint.guarded),
            confidence=100 * (1 - constraint.alpha),
            error_rate=100 * constraint.alpha * max(1, len(store.orders())),
            tests=sum(len(one.confirmations) for one in tuned(store.records.values())),
        )

    @property
    def sentence(self) -> str:
        """The guarantee in a sentence."""
        several = len(self.guards) > 1
        worse = "; ".join(f"on {bounds.name} {bounds}" if several else str(bounds) for bounds in self.guards)
        return (
            f"Shown on sets that no trial had seen, at an error rate of {self.error_rate:g}%: the encoder is "
            f"{worse}, however many trials there were. "
            f"{self.tests} {'candidate was' if self.tests == 1 else 'candidates were'} tested, from safe to bold."
        )


def _bounds(guard: config.Guard, bounds: Mapping[str, float], several: bool) -> Bounds:
    prefix = f"{guard.key}/" if several else ""
    own = {name.removeprefix(prefix): bound for name, bound in bounds.items() if name.startswith(prefix)}
    return Bounds(guard.key, own.pop(OVERALL), guard.margin, own, guard.margin_by_language)


def gain_test(objective: config.Objective) -> str:
    """The test behind the p-value of the gain."""
    return "exact McNemar" if objective.metric == config.IMPROVEMENT else "paired randomization"


def _at_most(bound: float) -> str:
    return f"better by {-bound:.1f}% or more" if bound <= -0.05 else f"at most {max(bound, 0.0):.1f}% worse"


def way_out(store: TrialStore) -> str:
    """What would have to change for a candidate to pass, where none did. Empty where nothing was tested."""
    refuted = [one for one in tuned(store.records.values()) if one.tested and one.tested.failure]
    if not refuted:
        return ""
    more = _more_needed(store, min(refuted, key=lambda one: one.number))
    return f"{more}allow a wider margin, or search smaller learning rates or stronger freezing masks"


def _more_needed(store: TrialStore, record: TrialRecord) -> str:
    """How much larger the confirmation sets would have to be, from the stored outcomes of the failed candidate."""
    base, stored = (outcomes.load(store.folder.trial(n).confirmation_outcomes) for n in (UNTOUCHED, record.number))
    if base is None or stored is None or record.tested is None:
        return ""
    guarded = []
    for guard in store.sweep.constraint.guarded:
        evidence = stored.evidence(guard.key, record.tested.scale, base)
        if evidence is None:
            return ""
        guarded.append(Guarded(guard, evidence))
    times = guarantee.times_needed(guarantee.test(guarded, store.sweep.constraint.alpha))
    if times is None:
        return ""
    if len(guarded) > 1:
        return f"confirm on sets {times:.1f} times as large, "
    units = "premises" if guarded[0].evidence.base.dim() > 1 else "queries"
    return f"confirm on more {units} (about {math.ceil(times * len(guarded[0].evidence)):,} for this candidate), "
