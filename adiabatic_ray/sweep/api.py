"""The Python API: what the command line does, for programs and notebooks. Exported from `adiabatic_ray`."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from adiabatic_ray import config, errors, storage
from adiabatic_ray.pocket import folder as pocket_folder
from adiabatic_ray.report import tables
from adiabatic_ray.sweep import lookup
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import TrialRecord, best
from adiabatic_ray.trials.store import TrialStore

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_sweep(path: str | Path) -> config.Sweep:
    """Read and check a sweep file. If the file uses the pocket world, make that first.

    Raises:
        ConfigError: the file cannot be used. The message has one line for each problem, with the file, the key, what
            was expected, and the nearest valid key.
    """
    return pocket_folder.load(Path(path))


def run(sweep: config.Sweep, *, console: Console | None = None) -> SweepResult:
    """Run a sweep, or go on with an earlier run of it. Print nothing unless a console is given.

    Raises:
        AdiabaticRayError: something failed that the user can fix. Trials that had ended are kept.
        KeyboardInterrupt: the user stopped the sweep. Running it again goes on with it.
    """
    from adiabatic_ray.sweep import driver  # Ray takes seconds to import

    driver.run(sweep, console or Console(quiet=True))
    return open_sweep(StorageFolder.at(sweep.storage).sweep(sweep.name).path)


def open_sweep(folder_or_url: str | Path) -> SweepResult:
    """Open the result of a sweep that has ended, was stopped or is running.

    `folder_or_url` is the sweep's folder, the URL of its folder, or its file.

    Raises:
        SweepError: there is no such sweep, or its folder is damaged.
        ConfigError: the sweep file cannot be used.
    """
    return SweepResult(lookup.find(str(folder_or_url)))


class SweepResult:
    """The result of a sweep, at the time when it was opened."""

    def __init__(self, store: TrialStore) -> None:
        self._store = store

    @property
    def sweep(self) -> config.Sweep:
        """The sweep's settings."""
        return self._store.sweep

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return self._store.folder.path

    @property
    def best(self) -> TrialRecord | None:
        """The trial that is handed over. `None` if no trial is feasible and better than the untouched encoder."""
        return best(self._store.records.values())

    @property
    def trials(self) -> pd.DataFrame:
        """One row for each trial, from best to worst, with the columns of `leaderboard.csv`."""
        return tables.table(self._store.records.values())

    @property
    def report(self) -> Path:
        """The file of the report's page."""
        return self._store.folder.report

    def encoder(self) -> SentenceTransformer:
        """The best trial's query encoder.

        Raises:
            SweepError: nothing is handed over.
        """
        return self._load(self._store.folder.best.query_encoder)

    def retrieval_model(self) -> SentenceTransformer:
        """One model of both sides: tuned for queries, untouched for documents.

        Raises:
            SweepError: nothing is handed over.
        """
        return self._load(self._store.folder.best.retrieval_model)

    def _repr_html_(self) -> str:
        """The leaderboard as HTML, for notebooks."""
        winner = self.best
        said = "nothing is handed over" if winner is None else f"trial {winner.number} is the best"
        heading = html.escape(f"{self.sweep.name}: {len(self._store.finished())} trials, {said}")
        table = self.trials.loc[:, :"reason"].to_html(index=False, na_rep="", float_format="{:.3g}".format, border=0)
        return f"<p><b>{heading}</b></p>{table}"

    def _load(self, model: Path) -> SentenceTransformer:
        if not storage.exists(self._store.folder.best.record):
            raise errors.SweepError(
                f"{self.folder} holds no exported encoder: no trial is feasible and better than the untouched encoder, "
                "or the sweep has not ended."
            )
        from adiabatic_ray.model import export  # sentence-transformers takes seconds to import

        with storage.local(model) as here:
            return export.load(here)
