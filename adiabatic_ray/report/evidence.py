"""What the outcomes of a sweep's trials say, with intervals: the numbers of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate import bootstrap, evidence, outcomes
from adiabatic_ray.evaluate.significance import SIGNIFICANT
from adiabatic_ray.report.regime import Regime, TrialVerdicts, regimes
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, best, tuned
from adiabatic_ray.trials.store import TrialStore

EDGE_REPLICATES = 200  # of a step among a few tried rates, which needs fewer than an interval of a number

ByKey = Mapping[str, evidence.Evidence]  # what was measured of a trial, by its key: `xnli`, `mrr_at_10/questions`
Drawn = Mapping[str, Tensor]  # replicates, by the same keys


@dataclass(frozen=True)
class Evidence:
    """Intervals and regimes of a sweep.

    `improvements[number][key]` is the improvement in percent of a trial's whole displacement on a selection set.
    `selection` and `confirmation` are those of the winner's candidate; both are empty without a winner, and
    `confirmation` also where the winner was not confirmed. `damaged` lists the trials whose outcomes cannot be read;
    they are left out.
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
    drawn = _replicates(base.by_scale[1.0], sweep.seed)
    improvements, verdicts, damaged = {}, [], []
    for record in records:
        changed = _read(store.folder.trial(record.number).outcomes, base, scale=1.0)
        if changed is None:
            damaged.append(record.number)
            continue
        improvements[record.number] = _intervals(changed, drawn)
        if "learning_rate" in record.config and record.state in ("complete", "stopped"):
            verdicts.append(_verdicts(sweep, record, changed, drawn))
    selection, confirmation = _of_winner(store)
    return Evidence(improvements, selection, confirmation, regimes(verdicts, sweep.seed), damaged)


def compared_sets(names: Iterable[str], metrics: Mapping[str, float]) -> list[str]:
    """The keys of what was compared with the untouched encoder on these sets: `xnli`, or `mrr_at_10/questions`."""
    keys = [key.removeprefix("improvement/") for key in metrics if key.startswith("improvement/")]
    return [key for name in names for key in keys if _is_of(name, key)]


def _is_of(name: str, key: str) -> bool:
    """Whether a key is that of a set, or of a metric of it; those of its languages are longer."""
    metric, _, rest = key.partition("/")
    return key == name or (rest == name and config.is_metric(metric))


def _of_untouched(store: TrialStore) -> outcomes.Outcomes:
    path = store.folder.trial(UNTOUCHED).outcomes
    base = outcomes.load(path)
    if base is None or 1.0 not in base.by_scale:
        raise errors.SweepError(
            f"{path} is missing or damaged, and every trial is compared with it. Run the sweep again, which writes it "
            "anew and repeats no finished trial."
        )
    return base


def _read(path: Path, base: outcomes.Outcomes, scale: float) -> ByKey | None:
    """What a trial's outcomes at one scale say, or `None` where they cannot be read."""
    stored = outcomes.load(path)
    if stored is None or scale not in stored.by_scale:
        return None
    read = {key: stored.evidence(key, scale, base) for key in stored.by_scale[scale]}
    return {key: one for key, one in read.items() if one is not None}


def _verdicts(sweep: config.Sweep, record: TrialRecord, changed: ByKey, drawn: Drawn) -> TrialVerdicts:
    """Whether a trial is feasible and significantly better, on its sets and on replicates of them."""
    guards, objective = sweep.constraint.guarded, sweep.search.gain.key
    return TrialVerdicts(
        mask=str(record.config.get("freeze", sweep.train.freeze)),
        rate=float(record.config["learning_rate"]),
        feasible=record.feasible,
        significant=record.metrics["p_value"] < SIGNIFICANT and (record.gain or 0.0) > 0,
        feasible_draws=bootstrap.feasible(
            [evidence.Guarded(guard, changed[guard.key]) for guard in guards],
            [drawn[guard.key][:EDGE_REPLICATES] for guard in guards],
            sweep.constraint.alpha,
        ),
        significant_draws=bootstrap.significant(changed[objective], drawn[objective][:EDGE_REPLICATES], SIGNIFICANT),
    )


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
    base = outcomes.load(untouched)
    changed = None if base is None or 1.0 not in base.by_scale else _read(trial, base, scale)
    return {} if base is None or changed is None else _intervals(changed, _replicates(base.by_scale[1.0], seed))


def _replicates(base: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    return {key: bootstrap.replicates(len(values), seed) for key, values in base.items()}


def _intervals(changed: ByKey, drawn: Drawn) -> dict[str, bootstrap.Interval]:
    return {key: bootstrap.improvement(one, drawn[key]) for key, one in changed.items()}
