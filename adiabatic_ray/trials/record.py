"""The record of a trial: its configuration, its evaluations, and the candidates that it can hand over."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["running", "complete", "stopped", "diverged", "out_of_memory", "crashed"]
FAILED_CONSTRAINT = 1000.0  # the constraint of a failed trial
GAIN_AT_EDGE = "edge/gain"  # the metric of an evaluation that holds the gain at the predicted edge
UNTOUCHED = 0  # the number of the untouched encoder, which is every sweep's first trial
# The one key of a soup's configuration: the numbers of its trials, such as `9+4`. The metric `soup/9` is what the whole
# displacement of trial 9 is multiplied by in it.
SOUP = "soup"


@dataclass(frozen=True)
class Evaluation:
    """The metrics after `step` optimiser steps, measured at `time` (seconds since the epoch)."""

    step: int
    time: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """A trial's displacement times `scale`, with its metrics and the language pair that degraded most.

    The metrics are exact, unless confirmation tested a scale that selection only predicted: then they are `gain` and
    `constraint` alone. Those of an exact measurement may have `predicted/gain` and `predicted/constraint` beside them,
    which were predicted from the whole displacement.
    """

    scale: float
    metrics: Mapping[str, float]
    worst: str = ""

    @property
    def gain(self) -> float:
        return self.metrics["gain"]


@dataclass(frozen=True)
class ProfilePoint:
    """What is predicted of a trial's displacement times `scale`, on the selection sets.

    `evidence` says how safe it is (see `guarantee.Verdict`): the larger the safer.
    """

    scale: float
    gain: float
    constraint: float
    evidence: float


@dataclass(frozen=True)
class Confirmation:
    """The test of a trial's displacement times `scale` on the confirmation sets, with its metrics there.

    `gain` is that on selection, by which the candidate was chosen. `failure` says why the test failed, and is empty if
    it passed.
    """

    scale: float
    gain: float
    metrics: Mapping[str, float]
    failure: str = ""


@dataclass(frozen=True)
class TrialReport:
    """What a trial reports at each evaluation, or when it fails before the next one.

    `metrics` is empty if nothing was measured. `worst` names the language pair that degraded most. `scaled` and
    `profile` are those of a complete trial's record. `harmful` says that harm is certain (see
    `significance.Violation`). `waits` says why the evaluation cannot be stored yet; the rest follows when it is.
    """

    number: int
    status: State
    step: int = 0
    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    worst: str = ""
    scaled: tuple[Candidate, ...] = ()
    profile: tuple[ProfilePoint, ...] = ()
    harmful: bool = False
    reason: str = ""
    waits: str = ""


@dataclass(frozen=True)
class TrialRecord:
    """One trial. Its fields are the keys of `trial.json`.

    The state `stopped` means that the trial was ended early, and `reason` says why. A trial that diverged, ran out of
    memory or crashed has failed, and `reason` says why. `started` and `finished` are in seconds since the epoch.

    `points` are its evaluations. `metrics` and `worst` are those of the whole displacement. `scaled` holds the
    candidates below scale 1 that were measured, and `profile` what is predicted of all others. `confirmations` are the
    tests of its candidates on the confirmation sets, and `repeats` the metrics of the same configuration, trained again
    with other seeds.
    """

    number: int
    config: Mapping[str, Any]
    state: State = "running"
    reason: str = ""
    started: float = 0.0
    finished: float | None = None
    points: tuple[Evaluation, ...] = ()
    worst: str = ""
    scaled: tuple[Candidate, ...] = ()
    profile: tuple[ProfilePoint, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    repeats: tuple[Mapping[str, float], ...] = ()

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics of the last evaluation."""
        return self.points[-1].metrics if self.points else {}

    @property
    def gain(self) -> float | None:
        return self.metrics.get("gain")

    @property
    def constraint(self) -> float | None:
        """The constraint at the last evaluation. A failed trial is infeasible, whatever was measured before."""
        return FAILED_CONSTRAINT if self.failed else self.metrics.get("constraint")

    @property
    def failed(self) -> bool:
        return self.state in ("diverged", "out_of_memory", "crashed")

    @property
    def is_soup(self) -> bool:
        """Whether it was not trained, but is the sum of other trials' displacements."""
        return SOUP in self.config

    @property
    def shares(self) -> dict[int, float]:
        """What the whole displacement of each trial in a soup is multiplied by, by its number; empty for others."""
        named = {key: value for key, value in self.metrics.items() if key.startswith(f"{SOUP}/")}
        return {int(key.removeprefix(f"{SOUP}/")): share for key, share in named.items()}

    @property
    def feasible(self) -> bool:
        """Whether the trial ran to its end and its whole displacement harms no language."""
        return self.state == "complete" and self.constraint is not None and self.constraint <= 0

    @property
    def whole(self) -> Candidate:
        """The candidate at scale 1, whether it is feasible or not."""
        return Candidate(1.0, self.metrics, self.worst)

    @functools.cached_property
    def edge(self) -> Candidate | None:
        """The feasible candidate with the largest gain, of those measured; of equal ones that with the smallest scale.

        `None` without one, and for a trial that is not complete.
        """
        if self.state != "complete":
            return None
        feasible = [candidate for candidate in (*self.scaled, self.whole) if candidate.metrics["constraint"] <= 0]
        return max(feasible, key=lambda candidate: (candidate.gain, -candidate.scale), default=None)

    @property
    def gain_at_edge(self) -> float | None:
        """The gain at the edge, at least 0: what the search maximises.

        It is the predicted one while the trial runs, and where no scale that was measured is feasible. Such a trial
        cannot be handed over, but its neighbours may gain as much.
        """
        if self.state == "complete":
            candidates = [self.edge] if self.edge else [point for point in self.profile if point.constraint <= 0]
            return max((0.0, *(candidate.gain for candidate in candidates)))
        return self.metrics.get(GAIN_AT_EDGE)

    @functools.cached_property
    def candidate(self) -> Candidate | None:
        """What can be handed over of the trial: its boldest candidate that passed confirmation, or else its edge."""
        tested = self.tested
        if tested is None or tested.failure:
            return self.edge
        measured = (one for one in (*self.scaled, self.whole) if one.scale == tested.scale)
        predicted = {"gain": tested.gain, "constraint": self._predicted_constraint(tested.scale)}
        return next(measured, Candidate(tested.scale, predicted))

    def _predicted_constraint(self, scale: float) -> float:
        return next((point.constraint for point in self.profile if point.scale == scale), 0.0)

    @property
    def tested(self) -> Confirmation | None:
        """The boldest test that passed, or else the first test. `None` if nothing was tested."""
        passed = [one for one in self.confirmations if not one.failure]
        return max(passed, key=lambda one: one.gain) if passed else next(iter(self.confirmations), None)

    @property
    def confirmation(self) -> Mapping[str, float]:
        """The metrics of `tested` on the confirmation sets."""
        return self.tested.metrics if self.tested else {}

    @property
    def bounds(self) -> dict[str, float]:
        """How much worse the candidate can be, in percent, as `tested` shows: by group (`overall` or a language).

        Where there are several guards, the guard is named before the group: `xnli/overall`.
        """
        bounds = {key.removeprefix("bound/"): v for key, v in self.confirmation.items() if key.startswith("bound/")}
        bounds.pop("evidence", None)
        return bounds

    @property
    def overall_bound(self) -> float | None:
        """The largest bound of everything on a guarded set."""
        return max((v for name, v in self.bounds.items() if name.rpartition("/")[2] == "overall"), default=None)

    @property
    def language_bound(self) -> float | None:
        """The largest bound of a language on a guarded set."""
        return max((v for name, v in self.bounds.items() if name.rpartition("/")[2] != "overall"), default=None)

    @property
    def confirmed(self) -> bool | None:
        """Whether a candidate passed its test on the confirmation sets, and most repeats are feasible there.

        `None` if the trial was neither confirmed nor repeated.
        """
        return not self.refutation if self.confirmations or self.repeats else None

    @property
    def refutation(self) -> str:
        """Why the trial cannot be handed over after confirmation, in words. Empty if it can."""
        if self.tested and self.tested.failure:
            return self.tested.failure
        if self.repeats and 2 * self.num_feasible_repeats <= len(self.repeats):
            return (
                f"of its {len(self.repeats)} repetitions with other seeds only {self.num_feasible_repeats} stayed "
                "feasible there"
            )
        return ""

    @property
    def num_feasible_repeats(self) -> int:
        return sum(repeat["constraint"] <= 0 for repeat in self.repeats)

    @property
    def repeat_score(self) -> tuple[float, float]:
        """The share of repeats that are feasible, and their mean gain. Repeated trials are ranked by this pair."""
        if not self.repeats:
            return 0.0, 0.0
        gain = statistics.fmean(repeat["gain"] for repeat in self.repeats)
        return self.num_feasible_repeats / len(self.repeats), gain

    @property
    def gain_std(self) -> float | None:
        """The standard deviation of the repeats' gains. `None` with fewer than two repeats."""
        return statistics.stdev(repeat["gain"] for repeat in self.repeats) if len(self.repeats) > 1 else None

    def ended(self, state: State, reason: str = "") -> TrialRecord:
        return dataclasses.replace(self, state=state, reason=reason, finished=time.time())


def ranked(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Sort trials from best to worst: first those with a candidate by its gain, then the others by their constraint."""

    def key(record: TrialRecord) -> tuple[bool, bool, float, int]:
        unmeasured = record.constraint is None
        worth = -record.candidate.gain if record.candidate else (record.constraint or 0.0)
        return record.candidate is None, unmeasured, worth, record.number

    return sorted(records, key=key)


def best(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The trial whose candidate has the largest gain. `None` if no trial can be handed over.

    If any trial was confirmed, only confirmed trials count. If any of these was repeated with other seeds, the best is
    the one with the highest `repeat_score`.
    """
    left = contenders(records)
    if any(record.confirmed is not None for record in left):
        left = [record for record in left if record.confirmed]
    if any(record.repeats for record in left):
        left = sorted((record for record in left if record.repeats), key=lambda r: r.repeat_score, reverse=True)
    return left[0] if left else None


def contenders(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials whose candidates are better than the untouched encoder, from best to worst."""
    return ranked(r for r in tuned(records) if r.candidate and r.candidate.gain > 0)


def tuned(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """All trials but trial 0, the untouched encoder."""
    return [record for record in records if record.number != UNTOUCHED]


def trained(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The tuned trials that were trained, so all but soups."""
    return [record for record in tuned(records) if not record.is_soup]
