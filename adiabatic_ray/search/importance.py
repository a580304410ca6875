"""How much each hyper-parameter matters for the outcome of a sweep's trials."""

from __future__ import annotations

import optuna
from optuna.study import StudyDirection

from adiabatic_ray.search import space
from adiabatic_ray.trials.record import tuned
from adiabatic_ray.trials.store import TrialStore

ENOUGH_TRIALS = 10  # with fewer trials, importances are mostly noise


def importances(store: TrialStore) -> dict[str, dict[str, float]]:
    """The importance of each hyper-parameter for a high `gain` and for a low `constraint`, by target and by name.

    The importances for a target sum to 1. The result is empty with a single hyper-parameter or too few trials. Source:
    PED-ANOVA (Watanabe et al. 2023), as Optuna implements it.
    """
    distributions = space.to_distributions(store.sweep.search)
    records = [
        record for record in tuned(store.finished()) if record.metrics and record.config.keys() == distributions.keys()
    ]
    if len(distributions) < 2 or len(records) < ENOUGH_TRIALS:
        return {}
    shares = {}
    directions = {"gain": StudyDirection.MAXIMIZE, "constraint": StudyDirection.MINIMIZE}
    for target, direction in directions.items():
        study = optuna.create_study(direction=direction)
        study.add_trials(
            [
                optuna.create_trial(params=dict(r.config), distributions=distributions, value=r.metrics[target])
                for r in records
            ]
        )
        shares[target] = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    return shares
