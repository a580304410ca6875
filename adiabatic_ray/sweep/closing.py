"""The last lines that a sweep prints: its result, and where everything is stored."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from adiabatic_ray.report import tables
from adiabatic_ray.report.assurance import Assurance, way_out
from adiabatic_ray.trials import naming
from adiabatic_ray.trials.layout import ExportFolder
from adiabatic_ray.trials.record import TrialRecord, ranked, tuned
from adiabatic_ray.trials.store import TrialStore

DESCRIBED = 5  # trials


def lines(
    store: TrialStore, winner: TrialRecord | None, exported: ExportFolder | None, status: str, mlflow: str, trouble: str
) -> Iterator[str]:
    """The last lines of a sweep that ended with `status` (FINISHED, KILLED or FAILED).

    `mlflow` is the address of MLflow's store. `trouble` says why MLflow is not up to date, and is empty if it is.
    """
    if winner is not None and exported is not None:
        yield f"best query encoder: {exported.query_encoder} (trial {winner.number})"
    yield from verdict(store, winner, status)
    yield f"report: {store.folder.report}"
    if trouble:
        yield f"MLflow at {mlflow} is behind ({trouble}); run the same command again to bring it up to date"
    elif mlflow.startswith("sqlite"):
        yield f"MLflow: adiabatic-ray ui {shlex.quote(str(store.folder.path))}"
    else:
        yield f"MLflow: {mlflow}"
    if status == "KILLED":
        yield "stopped; run the same command to go on"


def verdict(store: TrialStore, winner: TrialRecord | None, status: str) -> Iterator[str]:
    """What a sweep that ended with `status` can say of its winner, or why it has none."""
    if winner is None:
        yield from _nothing_to_hand_over(store, status)
    assurance = Assurance.of(store, winner)
    if assurance is not None:
        yield f"guarantee: {assurance.sentence}"


def description(store: TrialStore, winner: TrialRecord | None, status: str) -> str:
    """What a sweep came to, in Markdown: the verdict, the first trials, and the commands that show more or go on."""
    said = [" ".join(verdict(store, winner, status))]
    if status != "FINISHED":
        said.insert(0, f"The sweep {'was stopped' if status == 'KILLED' else 'failed'}; the same command goes on.")
    listed = [record for record in ranked(store.records.values()) if not record.failed][:DESCRIBED]
    tried = naming.differences(listed)
    rows = [
        f"| {record.number} | {(record.candidate or record.whole).metrics.get('gain', 0.0):+.2f} | "
        f"{tables.verdict(record, winner)} | {tried.get(record.number, 'untouched')} |"
        for record in listed
    ]
    folder = shlex.quote(str(store.folder.path))
    table = "\n".join(["| trial | gain % | verdict | configuration |", "|---|---|---|---|", *rows])
    return "\n\n".join([*filter(None, said), table, f"All trials: `adiabatic-ray leaderboard {folder}`"])


def _nothing_to_hand_over(store: TrialStore, status: str) -> Iterator[str]:
    records = tuned(store.records.values())
    refuted = [record for record in records if record.confirmed is False]
    if refuted:
        yield (
            f"no candidate was shown to be harmless, so none is handed over: {refuted[0].refutation}; "
            f"{way_out(store)}, in a sweep of another name"
        )
    elif status == "FINISHED" and records:
        nearest = ranked(records)[0]
        if nearest.candidate:
            yield (
                f"no feasible trial is better than the untouched encoder, so none is handed over; the best is trial "
                f"{nearest.number}, gain {nearest.candidate.gain:+.2f}%; search larger learning rates, or more steps"
            )
        else:
            yield f"no trial is feasible; nearest is trial {nearest.number}, constraint {nearest.constraint:+.2f}"
