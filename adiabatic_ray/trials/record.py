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
UNTOUCHED = 0  # the number of the untouched encoder, which is every sweep's first trial


@dataclass(frozen=True)
class Evaluation:
    """The metrics after `step` optimiser steps, measured at `time` (seconds since the epoch)."""

    step: int
    time: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """A trial's displacement times `scale`, with its metrics and the language pair that degraded most."""

    scale: float
    metrics: Mapping[str, float]
    worst: str

    @property
    def gain(self) -> float:
        return self.metrics["gain"]


@dataclass(frozen=True)
class TrialReport:
    """What a trial reports at each evaluation, or when it fails before the next one.

    `metrics` is empty if nothing was measured. `worst` names the language pair that degraded most. `scaled` holds the
    candidates of a complete trial below scale 1. `harmful` says that harm is certain (see `significance.Violation`).
    """

    number: int
    status: State
    step: int = 0
    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    worst: str = ""
    scaled: tuple[Candidate, ...] = ()
    harmful: bool = False
    reason: str = ""


@dataclass(frozen=True)
class TrialRecord:
    """One trial. Its fields are the keys of `trial.json`.

    The state `stopped` means that the trial ended early because harm was certain. A trial that diverged, ran out of
    memory or crashed has failed, and `reason` says why. `started` and `finished` are in seconds since the epoch.

    `points` are its evaluations. `metrics` and `worst` are those of the whole displacement, and `scaled` holds the
    candidates below scale 1. `confirmation` holds the candidate's metrics on the confirmation sets, and `repeats` the
    metrics of the same configuration, trained again with other seeds.
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
    confirmation: Mapping[str, float] = field(default_factory=dict)
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
    def feasible(self) -> bool:
        """Whether the trial ran to its end and its whole displacement harms no language."""
        return self.state == "complete" and self.constraint is not None and self.constraint <= 0

    @property
    def whole(self) -> Candidate:
        """The candidate at scale 1, whether it is feasible or not."""
        return Candidate(1.0, self.metrics, self.worst)

    @functools.cached_property
    def candidate(self) -> Candidate | None:
        """The feasible candidate with the largest scale. `None` without one, and for a trial that is not complete."""
        if self.state != "complete":
            return None
        feasible = [candidate for candidate in (*self.scaled, self.whole) if candidate.metrics["constraint"] <= 0]
        return max(feasible, key=lambda candidate: candidate.scale, default=None)

    @property
    def confirmed(self) -> bool | None:
        """Whether the candidate is feasible on the confirmation sets too, and so are most of its repeats.

        `None` if the trial was neither confirmed nor repeated.
        """
        return not self.refutation if self.confirmation or self.repeats else None

    @property
    def refutation(self) -> str:
        """Why the confirmation sets refute the candidate, in words. Empty if they do not."""
        if self.confirmation and self.confirmation["constraint"] > 0:
            return f"its constraint there is {self.confirmation['constraint']:+.2f} (feasible at 0 or below)"
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
