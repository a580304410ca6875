"""The report of a sweep from what its folder holds, at its end or at any time later."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.study import StudyDirection

from adiabatic_ray import storage, sweep_file
from adiabatic_ray.report import evidence, page
from adiabatic_ray.report.ledger import UNTOUCHED, Ledger
from adiabatic_ray.sweep import space

LOCK = ".report.lock"  # in a sweep's folder
ENOUGH_TRIALS = 10  # for importances: of fewer they say nothing


def write(ledger: Ledger) -> list[Path]:
    """Write the report's page, figures and leaderboard into the sweep's folder; the paths written.

    One process at a time: a user may ask for the report when the sweep that runs is about to write it.
    """
    with storage.lock(ledger.folder / LOCK, wait=True):
        return page.write(ledger, evidence.gather(ledger), importances(ledger))


def importances(ledger: Ledger) -> dict[str, dict[str, float]]:
    """The share of each hyper-parameter in reaching a high gain, and in reaching a low constraint.

    PED-ANOVA (Watanabe et al. 2023) as Optuna has it. Empty with a single hyper-parameter or too few trials.
    """
    distributions = space.to_distributions(sweep_file.rebuild(ledger.settings).search)
    records = [
        record
        for record in ledger.finished()
        if record.number != UNTOUCHED and record.metrics and record.config.keys() == distributions.keys()
    ]
    if len(distributions) < 2 or len(records) < ENOUGH_TRIALS:
        return {}
    found = {}
    directions = {"gain": StudyDirection.MAXIMIZE, "constraint": StudyDirection.MINIMIZE}
    for target, direction in directions.items():
        study = optuna.create_study(direction=direction)
        study.add_trials(
            [
                optuna.create_trial(params=dict(r.config), distributions=distributions, value=r.metrics[target])
                for r in records
            ]
        )
        found[target] = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    return found
