"""The trials of a sweep as an Optuna study in a journal file, for Optuna's dashboard and its figures.

It is written for reading. A sweep goes on from its trials' records alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from adiabatic_ray import config, storage
from adiabatic_ray.search import space
from adiabatic_ray.trials.record import TrialRecord, trained

CONSTRAINT = "no_degradation"


def write(path: Path, sweep: config.Sweep, records: Iterable[TrialRecord]) -> None:
    """Write the study of the sweep's name, with a trial for each that has ended.

    A trial's value is what the search maximises: the gain at the edge, or that of the whole displacement. Its
    constraint is that of the same candidate. What the whole displacement gains and costs is in its user attributes.

    Raises:
        StorageError: the storage stayed away.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file))), study_name=sweep.name, direction="maximize"
        )
        study.set_user_attr("objective", sweep.search.gain.key)
        distributions = space.to_distributions(sweep.search)
        ended = (record for record in trained(records) if record.state != "running")
        study.add_trials([_trial(record, sweep, distributions) for record in ended])
        storage.write(path, file.read_bytes())


def _trial(
    record: TrialRecord, sweep: config.Sweep, distributions: dict[str, optuna.distributions.BaseDistribution]
) -> FrozenTrial:
    edges = sweep.search.candidates == "edge"
    judged = record.edge if edges and record.edge else record.whole
    value = record.gain_at_edge if edges else record.gain
    constraint = record.constraint if record.failed else judged.metrics.get("constraint")
    complete = record.state == "complete" and value is not None
    attributes: dict[str, Any] = {
        "trial": record.number,
        "state": record.state,
        "reason": record.reason,
        "scale": judged.scale if complete else None,
        "gain of the whole displacement": record.gain,
        "constraint of the whole displacement": record.constraint,
        "worst": judged.worst,
        "confirmed": record.confirmed,
    }
    gains = {point.step: point.metrics["gain"] for point in record.points if "gain" in point.metrics}
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if complete else TrialState.FAIL if record.failed else TrialState.PRUNED,
        value=value if complete else None,
        params={name: record.config[name] for name in distributions},
        distributions=distributions,
        intermediate_values=gains,
        constraints={} if constraint is None else {CONSTRAINT: constraint},
        user_attrs={name: one for name, one in attributes.items() if one not in (None, "")},
    )
