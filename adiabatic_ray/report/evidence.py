"""What the outcomes of a sweep's trials say, with intervals: the numbers of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate import bootstrap, outcomes
from adiabatic_ray.evaluate.significance import SIGNIFICANT
from adiabatic_ray.report.regime import Regime, TrialVerdicts, regimes
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, best, tuned
from adiabatic_ray.trials.store import TrialStore

EDGE_REPLICATES = 200  # of a step among a few tried rates, which needs fewer than an interval of a number

BySet = Mapping[str, Tensor]  # outcomes (bool) or replicates, by the set's name


@dataclass(frozen=True)
class Evidence:
    """Intervals and regimes of a sweep.

    `improvements[number][name]` is the improvement in percent of a trial's whole displacement on a selection set
    (triplets or XNLI). `selection` and `confirmation` are those of the winner's candidate; both are empty without a
    winner, and `confirmation` also where the winner was not confirmed. `damaged` lists the trials whose outcomes cannot
    be read; they are left out.
    """

    improvements: Mapping[int, Mapping[str, bootstrap.Interval]]
    selection: Mapping[str, bootstrap.Interval]
    confirmation: Mapping[str, bootstrap.Interval]
    regimes: list[Regime]
    damaged: list[int]


def gather(store: TrialStore) -> Evidence:
    """Read all outcomes of a sweep and compute intervals and regimes.

    Raises:
        SweepError: the outcomes of the untouched encoder cannot be read.
    """
    records = [record for record in tuned(store.finished()) if record.points]
    if not records:
        return Evidence({}, {}, {}, [], [])
    base, sweep = _of_untouched(store), store.sweep
    drawn = _replicates(base, sweep.seed)
    improvements, verdicts, damaged = {}, [], []
    for record in records:
        changed = _read(store.folder.trial(record.number).outcomes, scale=1.0)
        if changed is None:
            damaged.append(record.number)
            continue
        improvements[record.number] = _intervals(base, changed, drawn)
        if "learning_rate" in record.config and record.state in ("complete", "stopped"):
            verdicts.append(_verdicts(sweep, record, base, changed, drawn))
    selection, confirmation = _of_winner(store)
    return Evidence(improvements, selection, confirmation, regimes(verdicts, sweep.seed), damaged)


def compared_sets(names: Iterable[str], metrics: Mapping[str, float]) -> list[str]:
    """Those of the sets whose discordance was compared with the untouched encoder's: triplets and XNLI."""
    return [name for name in names if f"improvement/{name}" in metrics]


def _of_untouched(store: TrialStore) -> BySet:
    path = store.folder.trial(UNTOUCHED).outcomes
    base = _read(path, scale=1.0)
    if base is None:
        raise errors.SweepError(
            f"{path} is missing or damaged, and every trial is compared with it. Run the sweep again, which writes it "
            "anew and repeats no finished trial."
        )
    return base


def _read(path: Path, scale: float) -> BySet | None:
    """Outcomes at one scale, or `None` where they cannot be read."""
    stored = outcomes.load(path)
    return None if stored is None else stored.by_scale.get(scale)


def _verdicts(sweep: config.Sweep, record: TrialRecord, base: BySet, changed: BySet, drawn: BySet) -> TrialVerdicts:
    """Whether a trial is feasible and significantly better, on its sets and on replicates of them."""
    guard, objective = sweep.constraint.data, sweep.search.objective
    return TrialVerdicts(
        mask=str(record.config.get("freeze", sweep.train.freeze)),
        rate=float(record.config["learning_rate"]),
        feasible=record.feasible,
        significant=record.metrics["p_value"] < SIGNIFICANT and (record.gain or 0.0) > 0,
        feasible_draws=bootstrap.feasible(
            _as_pairs(base[guard]), _as_pairs(changed[guard]), drawn[guard][:EDGE_REPLICATES], sweep.constraint
        ),
        significant_draws=bootstrap.significant(
            base[objective], changed[objective], drawn[objective][:EDGE_REPLICATES], SIGNIFICANT
        ),
    )


def _as_pairs(outcome: Tensor) -> Tensor:
    """Outcomes as `[n, comparison, language, language]`; a triplet set has one of each."""
    return outcome if outcome.dim() > 1 else outcome[:, None, None, None]


def _of_winner(store: TrialStore) -> tuple[dict[str, bootstrap.Interval], dict[str, bootstrap.Interval]]:
    """Intervals of the winner's candidate on the selection and on the confirmation sets."""
    winner = best(store.records.values())
    if winner is None or winner.candidate is None:
        return {}, {}
    untouched, trial = store.folder.trial(UNTOUCHED), store.folder.trial(winner.number)
    scale, seed = winner.candidate.scale, store.sweep.seed
    return (
        _of_candidate(untouched.outcomes, trial.outcomes, scale, seed),
        _of_candidate(untouched.confirmation_outcomes, trial.confirmation_outcomes, scale, seed),
    )


def _of_candidate(untouched: Path, trial: Path, scale: float, seed: int) -> dict[str, bootstrap.Interval]:
    base, changed = _read(untouched, scale=1.0), _read(trial, scale)
    return {} if base is None or changed is None else _intervals(base, changed, _replicates(base, seed))


def _replicates(base: BySet, seed: int) -> dict[str, Tensor]:
    return {name: bootstrap.replicates(len(outcome), seed) for name, outcome in base.items()}


def _intervals(base: BySet, changed: BySet, drawn: BySet) -> dict[str, bootstrap.Interval]:
    return {name: bootstrap.improvement(base[name], changed[name], drawn[name]) for name in base}
