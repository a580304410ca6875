"""The commands that need no Ray: filling the cache, training once, measuring an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from adiabatic_ray import config, errors, storage
from adiabatic_ray.data.sets import DataSet, Ranking, Xnli
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.model import encoder, export
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.report import figures, heat_maps
from adiabatic_ray.sweep import materials
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.materials import Filler
from adiabatic_ray.train import trial


def embed(sweep: config.Sweep, console: Console) -> None:
    """Fill the cache that a sweep with this file will use."""
    data = materials.read(sweep)
    console.dropped(data.all())
    filler = Filler(_load(sweep.model), cache_folder(sweep))
    console.drain(filler.materials(data))
    console.say(f"the cache is full: {filler.root}")


def train(sweep: config.Sweep, out: Path, console: Console) -> None:
    """Train once with the `train` section as it stands, and write the query encoder."""
    data = materials.read(sweep)
    console.dropped(data.all())
    model = _load(sweep.model)
    shared = console.drain(Filler(model, cache_folder(sweep)).materials(data))
    prepared = trial.TrainingData.prepare(shared.train, shared.train_passages.open(), model)
    benchmark = Benchmark(shared.selection, sweep.search.objective, sweep.constraint)
    for progress in trial.run(model, prepared, sweep.train, benchmark.measure, seed=sweep.seed):
        console.point(progress)
        if progress.status == "complete":
            assert progress.displacement is not None
            export.save(model, out, progress.displacement.tensors())
            console.say(f"query encoder: {out}")
    if progress.status != "complete":
        raise errors.SweepError(f"training ended as {progress.status}: {progress.reason}; nothing was written.")


def evaluate(
    models: Sequence[config.Model],
    base: config.Model | None,
    sources: Mapping[str, config.Source],
    out: Path,
    cache: Path,
    seed: int,
    console: Console,
) -> None:
    """Measure encoders on data sets; writes `discordance.csv`, and `ranking.csv` for BEIR sets, to `out`.

    Several encoders have a folder each in `out`, by their names. XNLI sets are also drawn, in one scale for all. With a
    base to compare with, the documents are embedded by the base, as in a system that has them stored.
    """
    from adiabatic_ray.data import sources as reading

    data = {name: reading.load(name, source, seed) for name, source in sources.items()}
    console.dropped(data.values())
    labels = _labels([model.name for model in models])
    against = _untouched(base, data, cache, console) if base is not None else None
    measured = {}
    for label, model in zip(labels, models, strict=True):
        folder = out / label if len(models) > 1 else out
        folder.mkdir(parents=True, exist_ok=True)
        if len(models) > 1:
            console.say(f"\n{model.name}")
        benchmark, own = against or _untouched(model, data, cache, console)
        found = untouched = benchmark.untouched()
        if against is not None:
            found = _measure(model, benchmark, own)
        _write(data, benchmark, found, folder, paired=against is not None)
        console.measurement(data, found, untouched if against is not None else None)
        console.say(f"wrote {folder / 'discordance.csv'}")
        measured[label] = folder, found
    for name, dataset in data.items():
        if isinstance(dataset, Xnli):
            largest = max(100 * float(found.outcomes[name].float().mean(0).max()) for _, found in measured.values())
            for label, (folder, found) in measured.items():
                figure = heat_maps.pnd(found.outcomes[name], dataset.languages, f"{label}: PND on {name}", largest)
                console.say(f"drew {figures.save(figure, folder, f'pnd_{name}')[0]}")


def _untouched(
    model: config.Model, data: Mapping[str, DataSet], cache: Path, console: Console
) -> tuple[Benchmark, Encoder]:
    """A benchmark on the model's own documents, and the model."""
    filler = Filler(_load(model), cache)
    return Benchmark(console.drain(filler.parts(data))), filler.encoder


def _measure(model: config.Model, benchmark: Benchmark, base: Encoder) -> Measurement:
    """A model's queries on the documents of the base."""
    tuned = _load(model)
    if tuned.dimension != base.dimension:
        raise errors.ModelError(
            f"{model.name} embeds into {tuned.dimension} dimensions and {base.settings.name} into {base.dimension}; "
            "they cannot be compared on the same documents."
        )
    return benchmark.measure(lambda texts: tuned.encode(texts, "query"))


def _write(
    data: Mapping[str, DataSet], benchmark: Benchmark, found: Measurement, folder: Path, *, paired: bool
) -> None:
    benchmark.write_discordance(folder / "discordance.csv", found, paired=paired)
    rows = [
        (name, key.removesuffix(f"/{name}"), value)
        for name, dataset in data.items()
        for key, value in found.metrics.items()
        if isinstance(dataset, Ranking) and key.endswith(f"/{name}")
    ]
    if rows:
        pd.DataFrame(rows, columns=["dataset", "measure", "value"]).to_csv(folder / "ranking.csv", index=False)


def _labels(names: Sequence[str]) -> list[str]:
    """Names for folders: the last part of each model's, numbered where two are alike."""
    short = [Path(name).name for name in names]
    return [f"{name}_{i}" if short.count(name) > 1 else name for i, name in enumerate(short, start=1)]


def cache_folder(sweep: config.Sweep) -> Path:
    """Where a sweep's frozen embeddings lie, shared by all sweeps of one storage folder."""
    return storage.folder(sweep.storage) / "cache"


def _load(model: config.Model) -> encoder.Encoder:
    return encoder.load(model, trial.default_device())
