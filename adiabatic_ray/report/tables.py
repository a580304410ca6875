"""The leaderboard of a sweep as a table and as a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from adiabatic_ray import storage
from adiabatic_ray.evaluate.evidence import COMPARISONS, PAIR
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, best, ranked


def table(records: Iterable[TrialRecord]) -> pd.DataFrame:
    """One row a trial, from best to worst: configuration, outcome, selection beside confirmation, and every metric."""
    listed = ranked(records)
    winner = best(listed)
    keys = list(dict.fromkeys(key for record in listed for key in record.config))  # the untouched encoder has none
    return pd.DataFrame([{"place": k} | _row(record, winner, keys) for k, record in enumerate(listed, start=1)])


def _row(record: TrialRecord, winner: TrialRecord | None, keys: Sequence[str]) -> dict[str, Any]:
    row = {
        "trial": record.number,
        "standing": standing(record, winner),
        **_selection(record),
        **{f"confirmation_{key}": record.confirmation.get(key) for key in ("gain", "p_value", "constraint")},
        **_bounds(record),
        **_repeats(record),
        "worst": record.worst,
        **{key: record.config.get(key) for key in keys},
        "state": record.state,
        "feasible": record.feasible,
        "seconds": None if record.finished is None else round(record.finished - record.started, 1),
        "reason": record.reason,
    }
    return row | {key: value for key, value in record.metrics.items() if key not in row}


def _selection(record: TrialRecord) -> dict[str, float | None]:
    """What was measured of the whole displacement, and of the candidate."""
    candidate = record.candidate
    return {
        "gain": record.gain,
        "p_value": record.metrics.get("p_value"),
        "constraint": record.constraint,
        "scale": candidate.scale if candidate else None,
        "scale_gain": candidate.gain if candidate else None,
        "scale_constraint": candidate.metrics["constraint"] if candidate else None,
    }


def _bounds(record: TrialRecord) -> dict[str, float | None]:
    """How much worse the candidate can be, as confirmation shows: overall, and in the worst language."""
    return {"confirmation_bound": record.overall_bound, "confirmation_bound_language": record.language_bound}


def _repeats(record: TrialRecord) -> dict[str, float | None]:
    """What training the configuration again with other seeds came to."""
    feasible, gain = record.repeat_score if record.repeats else (None, None)
    return {
        "seeds": len(record.repeats) or None,
        "seeds_feasible": feasible,
        "seeds_gain": gain,
        "seeds_gain_sd": record.gain_std,
    }


def standing(record: TrialRecord, winner: TrialRecord | None) -> str:
    """What became of a trial, in a word.

    `best` is the winner. `confirmed` is another one that passed its test on the confirmation sets, and `not confirmed`
    one that did not. `feasible at 0.5` is one that was not tested, whose displacement is feasible when it is halved.
    """
    if record is winner:
        return "best"
    if record.candidate:
        untested = "feasible" if record.feasible else f"feasible at {record.candidate.scale:.2g}"
        confirmed = None if record.number == UNTOUCHED else record.confirmed
        return {True: "confirmed", False: "not confirmed", None: untested}[confirmed]
    return "infeasible" if record.state == "complete" else record.state


def write(records: Iterable[TrialRecord], path: Path) -> Path:
    """Write the leaderboard as CSV, with every metric."""
    storage.write(path, table(records).to_csv(index=False))
    return path


def verdict(record: TrialRecord, winner: TrialRecord | None) -> str:
    """What became of a trial, in words: whom it harms, or what was shown of it."""
    word = standing(record, winner)
    if word == "infeasible":
        return f"harms {whom(record.worst)}"
    if word in ("best", "confirmed") and record.confirmed:
        return f"{'best: ' if word == 'best' else ''}harms nobody, confirmed"
    return word


def whom(group: str) -> str:
    """A group that is harmed, in a few words: `bg (neutral)` of `neutral/bg/vi`, `tr (ndcg_at_10/archive)`."""
    guard, comparison, query, text = parts(group)
    around = comparison or "/".join([*guard, *([f"{text} texts"] if text else [])])
    return f"{query} ({around})" if around else query or "somebody"


def parts(group: str) -> tuple[list[str], str, str, str]:
    """A group's guard, if it is named, comparison, query language and text language.

    A group that is no pair of languages has a language or `overall` in the place of the query's, and nothing else. Only
    pairs of XNLI have a comparison.
    """
    *guard, last = group.split("/")
    if len(guard) >= 2 and guard[-2] in COMPARISONS:
        return guard[:-2], guard[-2], guard[-1], last
    query, _, text = last.partition(PAIR)
    return guard, "", query, text
