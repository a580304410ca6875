"""Mirrors a sweep's folder to MLflow, on a thread of its own.

A server that is slow or down does not delay the sweep. The next run of the sweep delivers what could not be delivered.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from adiabatic_ray import errors
from adiabatic_ray.evaluate.embedded_data import Data
from adiabatic_ray.tracking import address, datasets
from adiabatic_ray.tracking.registry import ModelRegistry
from adiabatic_ray.tracking.runs import MlflowRuns
from adiabatic_ray.trials.layout import ExportFolder
from adiabatic_ray.trials.record import TrialRecord
from adiabatic_ray.trials.store import TrialStore

SECONDS_BETWEEN_SYNCS = 2.0
SECONDS_AFTER_FAILURE = 15.0
FINAL_SECONDS = 90.0  # how long an ending sweep waits for a delivery that is under way

# MLflow's database logs what it raises, with a stack trace; `trouble` says it.
for _logger, _level in (("mlflow", logging.ERROR), ("mlflow.store.db", logging.CRITICAL), ("alembic", logging.ERROR)):
    logging.getLogger(_logger).setLevel(_level)


class Mirror:
    """Keeps MLflow up to date until `finish`. Errors of MLflow are never raised.

    `trouble` says why the last delivery failed, and is empty if MLflow is up to date.
    """

    def __init__(self, runs: MlflowRuns) -> None:
        self.runs = runs
        self.trouble = ""
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()
        self.notify()

    @classmethod
    def of(cls, store: TrialStore, data: Data) -> Mirror:
        """Start the mirror of a sweep, at the store that its settings name or else at the default one."""
        settings = store.sweep.mlflow
        uri = address.of(settings, store.folder.storage)
        return cls(MlflowRuns(store, uri, settings.experiment, datasets.inputs(store.sweep, data)))

    @property
    def uri(self) -> str:
        """The address of MLflow's store, without a password."""
        return address.without_password(self.runs.uri)

    def notify(self) -> None:
        """Ask for a delivery, because the sweep's store has changed."""
        self._changed.set()

    def finish(
        self,
        report: list[Path],
        winner: TrialRecord | None,
        exported: ExportFolder | None,
        status: str,
        verdict: str = "",
    ) -> str:
        """Deliver all that is left, and end the sweep's run with `status`: FINISHED, KILLED or FAILED.

        `report` are the report's files, `exported` are the models of the winner, and `verdict` is what the sweep came
        to, in words. Return why not everything could be delivered, or an empty text.
        """
        self._closing.set()
        self._changed.set()
        self._thread.join(FINAL_SECONDS)
        if self._thread.is_alive():
            return "it does not answer"
        self._attempt(lambda: self._deliver_last(report, winner, exported, status, verdict))
        return self.trouble

    def _deliver_last(
        self,
        report: list[Path],
        winner: TrialRecord | None,
        exported: ExportFolder | None,
        status: str,
        verdict: str,
    ) -> None:
        self.runs.sync(ending=True)
        self.runs.log_artifacts(report, verdict)
        if winner is not None:
            self.runs.log_summary(winner)
        registry = ModelRegistry(self.runs)
        if exported is not None and winner is not None:
            registry.log_model(exported.query_encoder, winner)
        elif winner is None:
            registry.drop_champion()
        self.runs.close(status)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._changed.wait()
            self._changed.clear()
            self._attempt(self.runs.sync)
            if self.trouble:
                self._changed.set()  # try again even if nothing changes
            self._closing.wait(SECONDS_AFTER_FAILURE if self.trouble else SECONDS_BETWEEN_SYNCS)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
            self.trouble = ""
        except Exception as error:  # noqa: BLE001 - MLflow's stores raise errors of every library they are built on
            self.trouble = address.without_password(errors.summary(error))
