"""What the outcomes of a sweep's trials say, with intervals: the numbers of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate import bootstrap, outcomes
from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.evaluate.significance import SIGNIFICANT
from adiabatic_ray.report import regime
from adiabatic_ray.report.ledger import CONFIRMATION, OUTCOMES, UNTOUCHED, Ledger, Record, best
from adiabatic_ray.report.regime import Regime

EDGE_REPLICATES = 200  # of a step among a few tried rates, which needs fewer than an interval of a number


@dataclass(frozen=True)
class Evidence:
    """Intervals and regimes of a sweep.

    `improvements[number][name]` is the improvement in percent of a trial's whole displacement on a selection set
    (triplets or XNLI). `selection` and `confirmation` are the same of the winner's candidate, and empty without one or
    where it was not confirmed. `damaged` are trials whose outcomes cannot be read; they are left out.
    """

    improvements: Mapping[int, Mapping[str, Interval]]
    selection: Mapping[str, Interval]
    confirmation: Mapping[str, Interval]
    regimes: list[Regime]
    damaged: list[int]


def gather(ledger: Ledger) -> Evidence:
    """Read all outcomes of a sweep and compute intervals and regimes.

    Raises:
        SweepError: the outcomes of the untouched encoder cannot be read.
    """
    records = [r for r in ledger.finished() if r.number != UNTOUCHED and r.points]
    if not records:
        return Evidence({}, {}, {}, [], [])
    base = _read(ledger, UNTOUCHED, OUTCOMES, 1.0)
    if base is None:
        path = ledger.trial_folder(UNTOUCHED) / OUTCOMES
        raise errors.SweepError(
            f"{path} is missing or damaged, and every trial is compared with it. Run the sweep again, which writes it "
            "anew and repeats no finished trial."
        )
    settings = config.Constraint(**ledger.settings["constraint"])
    objective, seed = ledger.settings["search"]["objective"], int(ledger.settings["seed"])
    drawn = {name: bootstrap.replicates(len(tensor), seed) for name, tensor in base.items()}
    improvements: dict[int, dict[str, Interval]] = {}
    trials: list[regime.Trial] = []
    damaged: list[int] = []
    for record in records:
        tuned = _read(ledger, record.number, OUTCOMES, 1.0)
        if tuned is None:
            damaged.append(record.number)
            continue
        improvements[record.number] = _intervals(base, tuned, drawn)
        if "learning_rate" in record.config and record.state in ("complete", "stopped"):
            guarded = settings.data
            trials.append(
                regime.Trial(
                    mask=str(record.config.get("freeze", ledger.settings["train"]["freeze"])),
                    rate=float(record.config["learning_rate"]),
                    feasible=record.feasible,
                    significant=record.metrics["p_value"] < SIGNIFICANT and (record.gain or 0.0) > 0,
                    feasible_draws=bootstrap.feasible(
                        _as_pairs(base[guarded]), _as_pairs(tuned[guarded]), drawn[guarded][:EDGE_REPLICATES], settings
                    ),
                    significant_draws=bootstrap.significant(
                        base[objective], tuned[objective], drawn[objective][:EDGE_REPLICATES], SIGNIFICANT
                    ),
                )
            )
    winner = best(ledger.records.values())
    return Evidence(
        improvements,
        _of_candidate(ledger, winner, OUTCOMES, seed),
        _of_candidate(ledger, winner, CONFIRMATION, seed),
        regime.regimes(trials, seed),
        damaged,
    )


def _read(ledger: Ledger, number: int, name: str, scale: float) -> Mapping[str, Tensor] | None:
    found = outcomes.load(ledger.trial_folder(number) / name)
    return None if found is None else found.by_scale.get(scale)


def _intervals(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], drawn: Mapping[str, Tensor]
) -> dict[str, Interval]:
    return {name: bootstrap.improvement(base[name], tuned[name], drawn[name]) for name in base}


def _of_candidate(ledger: Ledger, winner: Record | None, name: str, seed: int) -> dict[str, Interval]:
    if winner is None or winner.candidate is None:
        return {}
    base, tuned = _read(ledger, UNTOUCHED, name, 1.0), _read(ledger, winner.number, name, winner.candidate.scale)
    if base is None or tuned is None:
        return {}
    return _intervals(base, tuned, {key: bootstrap.replicates(len(t), seed) for key, t in base.items()})


def _as_pairs(outcome: Tensor) -> Tensor:
    """Outcomes as `[n, comparison, language, language]`; a triplet set has one of each."""
    return outcome if outcome.dim() > 1 else outcome[:, None, None, None]
