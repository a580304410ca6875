"""Every file and folder name of a sweep, in one place.

STORAGE/                                what the sweeps of one storage folder share
  cache/                                embeddings of untouched encoders, by a digest of encoder and texts
  models/                               copies of models from local folders, if the storage is an object store
  mlflow.db, mlartifacts/               runs and models of all sweeps, unless a tracking server has them
  NAME/                                 one sweep
    sweep.json                          its id and its settings
    trials/0007/                        one trial
      trial.json                        its record, rewritten in one piece whenever it changes
      discordance.csv                   its discordant triplets on each set, against the untouched encoder
      outcomes.safetensors              whether each triplet is discordant, on the selection sets, at each scale
      confirmation.csv, .safetensors    the same two on the confirmation sets, if a candidate of the trial was tested
      checkpoint.safetensors            its state at the last evaluation before the end
      displacement.safetensors          its displacement, if the trial is among the best
      error.txt                         the stack trace, if the trial crashed
    best/                               the winner, exported
      query_encoder/, retrieval_model/  two models in sentence-transformers' format
      query_adapter/                    the tuned query side as a LoRA adapter of peft, if its rank is low
      trial.json                        the record of the trial that was exported
    guarantee.json                      the candidates that are tested on the confirmation sets, in their order
    report.html, figures/, leaderboard.csv
    study.journal                       the trials as an Optuna study, for Optuna's own tools
    confirmation/                       the trials of `adiabatic-ray confirm`, in a sweep folder of their own
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adiabatic_ray import storage


@dataclass(frozen=True)
class StorageFolder:
    """The folder that holds sweeps, on a disk or in an object store."""

    path: Path

    SWEEPS = "*/sweep.json"

    @classmethod
    def at(cls, where: str) -> StorageFolder:
        """The storage folder that a path or a URL names."""
        return cls(storage.folder(where))

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def mlflow_database(self) -> Path:
        return self.path / "mlflow.db"

    def sweep(self, name: str) -> SweepFolder:
        return SweepFolder(self.path / name)


@dataclass(frozen=True)
class SweepFolder:
    """One sweep's folder."""

    path: Path

    TRIALS = "trials/*/trial.json"

    @property
    def settings(self) -> Path:
        return self.path / "sweep.json"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def guarantee(self) -> Path:
        return self.path / "guarantee.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def report_lock(self) -> Path:
        return self.path / ".report.lock"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def leaderboard(self) -> Path:
        return self.path / "leaderboard.csv"

    @property
    def journal(self) -> Path:
        return self.path / "study.journal"

    @property
    def best(self) -> ExportFolder:
        return ExportFolder(self.path / "best")

    @property
    def confirmation(self) -> SweepFolder:
        return SweepFolder(self.path / "confirmation")

    @property
    def storage(self) -> StorageFolder:
        return StorageFolder(self.path.parent)

    def trial(self, number: int) -> TrialFolder:
        return TrialFolder(self.path / "trials" / f"{number:04d}")


@dataclass(frozen=True)
class TrialFolder:
    """One trial's folder."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "trial.json"

    @property
    def discordance(self) -> Path:
        return self.path / "discordance.csv"

    @property
    def outcomes(self) -> Path:
        return self.path / "outcomes.safetensors"

    @property
    def confirmation_discordance(self) -> Path:
        return self.path / "confirmation.csv"

    @property
    def confirmation_outcomes(self) -> Path:
        return self.path / "confirmation.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def displacement(self) -> Path:
        return self.path / "displacement.safetensors"

    @property
    def error(self) -> Path:
        return self.path / "error.txt"

    @property
    def place(self) -> tuple[SweepFolder, int] | None:
        """The sweep's folder and the trial's number. `None` if the path is not that of a trial's folder."""
        if self.path.parent.name != "trials" or not re.fullmatch(r"\d{4,}", self.path.name):
            return None
        return SweepFolder(self.path.parent.parent), int(self.path.name)


@dataclass(frozen=True)
class ExportFolder:
    """A folder of exported models."""

    path: Path

    RECORD = "trial.json"  # written last, so a folder that has it is complete

    @property
    def query_encoder(self) -> Path:
        return self.path / "query_encoder"

    @property
    def retrieval_model(self) -> Path:
        return self.path / "retrieval_model"

    @property
    def query_adapter(self) -> Path:
        return self.path / "query_adapter"

    @property
    def record(self) -> Path:
        return self.path / self.RECORD
