"""The leaderboard of a sweep as a table and as a CSV file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from adiabatic_ray import storage
from adiabatic_ray.report.ledger import Record, best, ranked


def table(records: Iterable[Record]) -> pd.DataFrame:
    """One row a trial, from best to worst: configuration, outcome, selection beside confirmation, and every metric."""
    rows = []
    listed = ranked(records)
    winner = best(listed)
    keys = dict.fromkeys(key for record in listed for key in record.config)  # the untouched encoder has none of them
    for place, record in enumerate(listed, start=1):
        row = {
            "place": place,
            "trial": record.number,
            "standing": standing(record, winner),
            "gain": record.gain,
            "p_value": record.metrics.get("p_value"),
            "constraint": record.constraint,
            "scale": record.candidate.scale if record.candidate else None,
            "scale_gain": record.candidate.gain if record.candidate else None,
            "scale_constraint": record.candidate.metrics["constraint"] if record.candidate else None,
            **{f"confirmation_{key}": record.confirmation.get(key) for key in ("gain", "p_value", "constraint")},
            "seeds": len(record.repeats) or None,
            "seeds_feasible": record.steadiness[0] if record.repeats else None,
            "seeds_gain": record.steadiness[1] if record.repeats else None,
            "seeds_gain_sd": record.spread,
            "worst": record.worst,
            **{key: record.config.get(key) for key in keys},
            "state": record.state,
            "feasible": record.feasible,
            "seconds": None if record.finished is None else round(record.finished - record.started, 1),
            "reason": record.reason,
        }
        rows.append(row | {key: value for key, value in record.metrics.items() if key not in row})
    return pd.DataFrame(rows)


def standing(record: Record, winner: Record | None) -> str:
    """What became of a trial, in a word.

    `best` is the winner, `feasible at 0.5` one whose displacement is feasible when it is halved, `not confirmed` one
    that confirmation refuted.
    """
    if record is winner:
        return "best"
    if record.candidate:
        scaled = f"feasible at {record.candidate.scale:g}"
        return "not confirmed" if record.confirmed is False else "feasible" if record.feasible else scaled
    return "infeasible" if record.state == "complete" else record.state


def write(records: Iterable[Record], folder: Path) -> Path:
    """Write `leaderboard.csv` with every metric."""
    path = folder / "leaderboard.csv"
    storage.write(path, table(records).to_csv(index=False))
    return path


def show(value: Any) -> str:
    """A hyper-parameter or result for people: three significant digits, and all those before the point."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def configuration(record: Record) -> str:
    """What a trial was tried with, in a line; empty for the untouched encoder."""
    return ", ".join(f"{key} {show(value)}" for key, value in record.config.items())
