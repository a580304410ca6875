"""Sums of displacements ("soups", Wortsman et al. 2022): what a sweep hands over with `search.soup`, and without.

    python -m tests.benchmarks.soup SWEEP [SWEEP ...]

SWEEP is the folder of a finished sweep that kept the displacements of its best trials (`budget.confirm`). Copies of it
go on from its last trial, without and with a soup: each tests its candidates on the confirmation sets and hands one
over. So both have the same trials. The last line compares all sweeps, which should differ in their seeds alone.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scipy import stats

from adiabatic_ray import storage
from adiabatic_ray.evaluate import embedded_data
from adiabatic_ray.evaluate.embedded_data import EmbeddedData, EmbeddingBuilder
from adiabatic_ray.model import encoder
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep import fixed_sequence, soup
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials import naming
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import best, trained
from adiabatic_ray.trials.store import TrialStore
from tests.generators import drain


def end_of_trials(source: TrialStore, folder: Path) -> TrialStore:
    """A copy of a sweep as it was when its last trial had ended."""
    shutil.copytree(source.folder.path, folder)
    store = TrialStore(folder)
    storage.drop(store.folder.guarantee)
    for record in trained(source.records.values()):
        store.put(dataclasses.replace(record, confirmations=(), repeats=()))
    store.records = {n: record for n, record in store.records.items() if not record.is_soup}
    return store


def handed_over(store: TrialStore, model: Encoder, embedded: EmbeddedData, *, with_soup: bool) -> float:
    """The confirmed gain of what a sweep hands over, 0 if that is nothing, and prints what it is."""
    search = dataclasses.replace(store.sweep.search, soup=with_soup)
    run: Any = SimpleNamespace(
        sweep=dataclasses.replace(store.sweep, search=search),
        store=store,
        embedded=embedded,
        tasks=SimpleNamespace(run=lambda work, *arguments: work(model, *arguments)),
        console=Console(quiet=True),
        interrupted=threading.Event(),
    )
    started = time.perf_counter()
    soup.add(run)
    added = time.perf_counter() - started
    fixed_sequence.test(run)
    winner = best(store.records.values())
    title = "with a soup" if with_soup else "without"
    if winner is None or winner.candidate is None:
        print(f"  {title}: nothing", flush=True)
        return 0.0
    gain = winner.confirmation["gain"]
    print(
        f"  {title} ({added:.0f} s): {winner.candidate.scale:.2f} of trial {winner.number} "
        f"({naming.configuration(winner)}), {winner.candidate.gain:+.2f}% on selection, {gain:+.2f}% confirmed; "
        f"overall at most {winner.overall_bound:.2f}% worse, a language {winner.language_bound:.2f}%",
        flush=True,
    )
    return gain


def main() -> None:
    differences = []
    for name in sys.argv[1:]:
        source = TrialStore(storage.folder(name))
        print(source.sweep.name)
        model = encoder.load(source.sweep.model, encoder.default_device())
        cache = StorageFolder.at(source.sweep.storage).cache
        embedded = drain(EmbeddingBuilder(model, cache).embedded_data(embedded_data.read(source.sweep)))[1]
        gains = {}
        for with_soup in (False, True):
            with tempfile.TemporaryDirectory() as scratch:
                store = end_of_trials(source, Path(scratch) / "sweep")
                gains[with_soup] = handed_over(store, model, embedded, with_soup=with_soup)
        differences.append(gains[True] - gains[False])
    if len(differences) > 1:
        mean, n = statistics.fmean(differences), len(differences)
        half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
        print(f"with a soup less without, confirmed: {mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}], {n} sweeps")


if __name__ == "__main__":
    main()
