"""What confirmation proves of an encoder, in numbers and in a sentence: for the page, the card and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adiabatic_ray.evaluate import guarantee, outcomes
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, tuned
from adiabatic_ray.trials.store import TrialStore


@dataclass(frozen=True)
class Assurance:
    """The guarantee of a candidate that passed confirmation. Bounds and margins are in percent of the errors before.

    `languages` are the upper bounds of the query languages. `error_rate` is in percent: `alpha` for each order of
    candidates that was tested on the same confirmation sets. `tests` counts the candidates that were tested.
    """

    overall: float
    margin: float
    languages: Mapping[str, float]
    language_margin: float
    confidence: float
    error_rate: float
    tests: int

    @classmethod
    def of(cls, store: TrialStore, record: TrialRecord | None) -> Assurance | None:
        """`None` if the trial did not pass, or if an earlier version confirmed it, which tested no margins."""
        if record is None or record.confirmed is not True or not record.bounds:
            return None
        bounds, constraint = record.bounds, store.sweep.constraint
        return cls(
            overall=bounds.pop(guarantee.OVERALL),
            margin=constraint.margin,
            languages=bounds,
            language_margin=constraint.margin_by_language,
            confidence=100 * (1 - constraint.alpha),
            error_rate=100 * constraint.alpha * max(1, len(store.orders())),
            tests=sum(len(one.confirmations) for one in tuned(store.records.values())),
        )

    @property
    def sentence(self) -> str:
        """The guarantee in a sentence."""
        worst = max(self.languages, key=lambda name: self.languages[name], default=None)
        language = ""
        if worst is not None:
            language = (
                f" and {_at_most(self.languages[worst])} in any language ({worst}; {self.language_margin:g}% allowed)"
            )
        return (
            f"Shown on sets that no trial had seen, at an error rate of {self.error_rate:g}%: the encoder is "
            f"{_at_most(self.overall)} overall ({self.margin:g}% allowed){language}, however many trials there were. "
            f"{self.tests} {'candidate was' if self.tests == 1 else 'candidates were'} tested, from safe to bold."
        )


def _at_most(bound: float) -> str:
    return f"better by {-bound:.1f}% or more" if bound <= -0.05 else f"at most {max(bound, 0.0):.1f}% worse"


def way_out(store: TrialStore) -> str:
    """What would have to change for a candidate to pass, where none did. Empty where nothing was tested."""
    refuted = [one for one in tuned(store.records.values()) if one.tested and one.tested.failure]
    if not refuted:
        return ""
    needed = _premises_needed(store, min(refuted, key=lambda one: one.number))
    premises = "" if needed is None else f"confirm on more premises (about {needed:,} for this candidate), "
    return f"{premises}allow a wider margin, or search smaller learning rates or stronger freezing masks"


def _premises_needed(store: TrialStore, record: TrialRecord) -> int | None:
    """How many premises the guarded confirmation set would need, from the stored outcomes of the failed candidate."""
    guard = store.sweep.constraint.data
    stored = [outcomes.load(store.folder.trial(n).confirmation_outcomes) for n in (UNTOUCHED, record.number)]
    untouched, tuned = stored
    if untouched is None or tuned is None or record.tested is None:
        return None
    base, changed = untouched.by_scale.get(1.0, {}).get(guard), tuned.by_scale.get(record.tested.scale, {}).get(guard)
    if base is None or changed is None:
        return None
    verdict = guarantee.test(base, changed, untouched.languages.get(guard, []), store.sweep.constraint)
    return guarantee.premises_needed(verdict, len(base))
