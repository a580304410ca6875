"""What came of a sweep, as typed values: the page puts them into words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adiabatic_ray import config
from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.report.evidence import Evidence, compared_sets
from adiabatic_ray.trials.record import TrialRecord, best, contenders, ranked, trained, tuned


@dataclass(frozen=True)
class Counts:
    """How many trials there are beside the untouched encoder, and how they ended.

    Of the trials in `scaled`, only a part of the displacement is feasible; `infeasible` ones have not even that.
    """

    trials: int
    feasible: int
    scaled: int
    infeasible: int
    stopped: int
    failed: int
    running: int

    @classmethod
    def of(cls, trials: Sequence[TrialRecord]) -> Counts:
        return cls(
            trials=len(trials),
            feasible=sum(trial.feasible for trial in trials),
            scaled=sum(bool(trial.candidate) and not trial.feasible for trial in trials),
            infeasible=sum(trial.state == "complete" and not trial.candidate for trial in trials),
            stopped=sum(trial.state == "stopped" for trial in trials),
            failed=sum(trial.failed for trial in trials),
            running=sum(trial.state == "running" for trial in trials),
        )


@dataclass(frozen=True)
class Estimate:
    """An improvement in percent, with its interval where the outcomes behind it can be read."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Results:
    """The winner's candidate on the selection or on the confirmation sets; `None` where a value was not measured."""

    improvements: Mapping[str, Estimate]
    p_value: float | None
    worst_language: float | None
    worst_z: float | None
    upper: float | None
    constraint: float | None

    @classmethod
    def of(cls, sets: Iterable[str], metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> Results:
        names = compared_sets(sets, metrics)
        return cls(
            improvements={name: Estimate(metrics[f"improvement/{name}"], intervals.get(name)) for name in names},
            p_value=metrics.get("p_value"),
            worst_language=metrics.get("worst_language"),
            worst_z=metrics.get("constraint/worst_z"),
            upper=metrics.get("constraint/upper"),
            constraint=metrics.get("constraint"),
        )


@dataclass(frozen=True)
class Summary:
    """The outcome of a sweep.

    `winner` is the trial that is handed over. `refuted` are the trials that were feasible in selection and not in
    confirmation. `nearest` is the best of the measured trials, or else the least infeasible one. `selection` and
    `confirmation` are the winner's results, `None` where there is no winner.
    """

    counts: Counts
    winner: TrialRecord | None
    refuted: list[TrialRecord]
    nearest: TrialRecord | None
    selection: Results | None
    confirmation: Results | None


def summarise(sweep: config.Sweep, records: Sequence[TrialRecord], evidence: Evidence) -> Summary:
    """Sum up a sweep's trials."""
    trials, winner = tuned(records), best(records)
    measured = [r for r in ranked(trials) if not r.failed and r.constraint is not None and r.state != "running"]
    selection, confirmation = None, None
    if winner is not None and winner.candidate is not None:
        selection = Results.of(sweep.evaluate.selection, winner.candidate.metrics, evidence.selection)
        confirmation = Results.of(sweep.evaluate.selection, winner.confirmation, evidence.confirmation)
    return Summary(
        counts=Counts.of(trained(records)),
        winner=winner,
        refuted=[trial for trial in contenders(trials) if trial.confirmed is False],
        nearest=measured[0] if measured else None,
        selection=selection,
        confirmation=confirmation,
    )
