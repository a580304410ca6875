"""The figures of the page, or the reasons why they cannot be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from matplotlib.figure import Figure

from adiabatic_ray import config
from adiabatic_ray.evaluate import bootstrap, outcomes
from adiabatic_ray.evaluate import evidence as evaluated
from adiabatic_ray.report import (
    charts,
    curves,
    figures,
    heat_maps,
    history,
    importances,
    languages,
    parallel,
    profiles,
    trade,
)
from adiabatic_ray.report.evidence import Evidence, compared_sets
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, best
from adiabatic_ray.trials.store import TrialStore

Reason = Literal[
    "nothing handed over",
    "outcomes of a trial unreadable",
    "all outcomes unreadable",
    "outcomes not kept",
    "no pairs of languages",
    "rate not searched",
    "no profiles",
    "nothing measured",
    "importances unknown",
]


@dataclass(frozen=True)
class Picture:
    """A figure, or the reason why there is none. `numbers` are those that the caption or the reason names.

    `charts` show the same as the figure, and answer the pointer. `note` is more for the caption.
    """

    figure: Figure | None = None
    reason: Reason | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)
    charts: Sequence[charts.Spec] = ()
    note: str = ""


NOTHING_MEASURED = Picture(reason="nothing measured")


def draw(
    store: TrialStore, records: Sequence[TrialRecord], evidence: Evidence, shares: importances.Importances
) -> dict[str, Picture]:
    """All figures, by the names of their files."""
    sweep, winner = store.sweep, best(records)
    return {
        **_of_languages(store, winner),
        **_over_rate(sweep, records, evidence),
        "profiles": _profiles(sweep, records, winner),
        **_of_search(sweep, records, winner),
        "importances": _importances(shares),
    }


def _of_languages(store: TrialStore, winner: TrialRecord | None) -> dict[str, Picture]:
    """The winner's improvement on the languages of the guarded sets, at the scale that is handed over."""
    guarded = _guarded(store, winner)
    if isinstance(guarded, Picture):
        return {"heat_maps": guarded}
    evidence, note = guarded
    assert winner is not None
    assert winner.candidate is not None
    of = f"trial {winner.number}, scale {winner.candidate.scale:g}"
    drawn = {"heat_maps": Picture(reason="no pairs of languages")}
    in_pairs = {guard: one for guard, one in evidence.items() if one.by_pair()}
    if in_pairs:
        figure = heat_maps.improvement(in_pairs, f"Improvement by pair of languages of {of}")
        sizes = {guard: len(one) for guard, one in in_pairs.items()}
        drawn["heat_maps"] = Picture(figure, numbers=sizes, charts=heat_maps.improvement_charts(in_pairs), note=note)
    bars = {}
    for settings in store.sweep.constraint.guarded:
        one = evidence[settings.key]
        intervals = bootstrap.by_language(one, bootstrap.replicates(len(one), store.sweep.seed))
        if intervals:
            bars[settings.key] = languages.Guard(intervals, settings.language_margin)
    if bars:
        figure = languages.bars(bars, f"Improvement by language of {of}")
        drawn["by_language"] = Picture(figure, charts=languages.bar_charts(bars))
    return drawn


def _guarded(store: TrialStore, winner: TrialRecord | None) -> tuple[dict[str, evaluated.Evidence], str] | Picture:
    """What the guarded sets say of the winner, by the guards' keys, or why it is not known.

    With it comes a sentence on what passages were compared by, empty where the outcomes do not say so.
    """
    if winner is None or winner.candidate is None:
        return Picture(reason="nothing handed over")
    stored = {number: outcomes.load(store.folder.trial(number).outcomes) for number in (UNTOUCHED, winner.number)}
    untouched, trial = stored[UNTOUCHED], stored[winner.number]
    if untouched is None or trial is None:
        damaged = UNTOUCHED if untouched is None else winner.number
        return Picture(reason="outcomes of a trial unreadable", numbers={"trial": damaged})
    found: dict[str, evaluated.Evidence] = {}
    for guard in store.sweep.constraint.guarded:
        one = trial.evidence(guard.key, winner.candidate.scale, untouched)
        if one is None or one.base.shape != one.tuned.shape:
            return Picture(reason="outcomes not kept")
        found[guard.key] = one
    return found, f" Passages are compared by {config.RANKED_BY[trial.similarity]}." if trial.similarity else ""


def _over_rate(sweep: config.Sweep, records: Sequence[TrialRecord], evidence: Evidence) -> dict[str, Picture]:
    """The improvement curves of the freezing masks, and what became of the same trials."""
    shown = [record for record in figures.measured(records) if "learning_rate" in record.config]
    objective, rates = sweep.search.gain.key, NOTHING_MEASURED
    if shown:
        rates = Picture(curves.outcomes(shown, objective), charts=curves.outcomes_charts(shown, objective))
    if "learning_rate" not in sweep.search.space:
        return {"curves": Picture(reason="rate not searched"), "rates": rates}
    if not shown:
        return {"curves": NOTHING_MEASURED, "rates": rates}
    if not evidence.improvements:
        return {"curves": Picture(reason="all outcomes unreadable"), "rates": rates}
    sets = compared_sets(sweep.evaluate.selection, shown[0].metrics)
    figure = curves.improvement(shown, sets, evidence.improvements, evidence.regimes, sweep.train.freeze)
    answering = curves.improvement_charts(shown, sets, evidence.improvements, evidence.regimes, sweep.train.freeze)
    return {"curves": Picture(figure, charts=answering), "rates": rates}


def _profiles(sweep: config.Sweep, records: Sequence[TrialRecord], winner: TrialRecord | None) -> Picture:
    """Gain and constraint of the best trials over the scale."""
    if not profiles.profiled(records, winner):
        return Picture(reason="no profiles")
    objective = sweep.search.gain.key
    figure = profiles.over_scale(records, objective, winner)
    return Picture(figure, charts=profiles.over_scale_charts(records, objective, winner))


def _of_search(sweep: config.Sweep, records: Sequence[TrialRecord], winner: TrialRecord | None) -> dict[str, Picture]:
    """The figures of all measured trials together."""
    if not figures.measured(records):
        return dict.fromkeys(("worst_language", "history", "parallel"), NOTHING_MEASURED)
    objective = sweep.search.gain.key
    return {
        "worst_language": Picture(
            trade.gain_against_worst_language(records, objective, winner),
            charts=[trade.chart(records, objective, winner)],
        ),
        "history": Picture(history.gains(records, objective), charts=[history.chart(records, objective)]),
        "parallel": Picture(
            parallel.coordinates(records, sweep.search.space, winner),
            charts=[parallel.chart(records, sweep.search.space, winner)],
        ),
    }


def _importances(shares: importances.Importances) -> Picture:
    known = {target: one for target, one in shares.items() if one}
    if not known:
        return Picture(reason="importances unknown")
    return Picture(importances.bars(known), charts=importances.bar_charts(known))
