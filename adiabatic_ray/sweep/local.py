"""The commands that need no Ray: filling the cache, training once, measuring an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from adiabatic_ray import config, errors
from adiabatic_ray.data.sets import DataSet, Ranking, Xnli
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.model import encoder, export
from adiabatic_ray.report import figures, heat_maps
from adiabatic_ray.sweep import materials
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.materials import Filler
from adiabatic_ray.train import trial


def embed(sweep: config.Sweep, console: Console) -> None:
    """Fill the cache that a sweep with this file will use."""
    data = materials.read(sweep)
    console.dropped(data)
    filler = Filler(_load(sweep.model), cache_folder(sweep))
    console.drain(filler.materials(data))
    console.say(f"the cache is full: {filler.root}")


def train(sweep: config.Sweep, out: Path, console: Console) -> None:
    """Train once with the `train` section as it stands, and write the query encoder."""
    data = materials.read(sweep)
    console.dropped(data)
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
    labels = _labels([model.name for model in models])
    measured = {}
    for label, model in zip(labels, models, strict=True):
        folder = out / label if len(models) > 1 else out
        folder.mkdir(parents=True, exist_ok=True)
        if len(models) > 1:
            console.say(f"\n{model.name}")
        measured[label] = folder, _evaluate(model, base, data, folder, cache, console)
    for name, dataset in data.items():
        if isinstance(dataset, Xnli):
            largest = max(100 * float(found.outcomes[name].float().mean(0).max()) for _, found in measured.values())
            for label, (folder, found) in measured.items():
                figure = heat_maps.pnd(found.outcomes[name], dataset.languages, f"{label}: PND on {name}", largest)
                console.say(f"drew {figures.save(figure, folder, f'pnd_{name}')[0]}")


def _evaluate(
    model: config.Model,
    base: config.Model | None,
    data: Mapping[str, DataSet],
    out: Path,
    cache: Path,
    console: Console,
) -> Measurement:
    filler = Filler(_load(base or model), cache)
    benchmark = Benchmark([console.drain(filler.part(name, found)) for name, found in data.items()])
    found = untouched = benchmark.untouched()
    if base is not None:
        tuned = _load(model)
        if tuned.dimension != filler.encoder.dimension:
            raise errors.ModelError(
                f"{model.name} embeds into {tuned.dimension} dimensions and {base.name} into "
                f"{filler.encoder.dimension}; they cannot be compared on the same documents."
            )
        found = benchmark.measure(lambda texts: tuned.encode(texts, "query"))
    benchmark.write_discordance(out / "discordance.csv", found, paired=base is not None)
    rankings = [name for name, one in data.items() if isinstance(one, Ranking)]
    if rankings:
        rows = [
            (name, key.removesuffix(f"/{name}"), value)
            for name in rankings
            for key, value in found.metrics.items()
            if key.endswith(f"/{name}")
        ]
        pd.DataFrame(rows, columns=["dataset", "measure", "value"]).to_csv(out / "ranking.csv", index=False)
    console.measurement(data, found, untouched if base is not None else None)
    console.say(f"wrote {out / 'discordance.csv'}")
    return found


def _labels(names: Sequence[str]) -> list[str]:
    """Names for folders: the last part of each model's, numbered where two are alike."""
    short = [Path(name).name for name in names]
    return [f"{name}_{i}" if short.count(name) > 1 else name for i, name in enumerate(short, start=1)]


def cache_folder(sweep: config.Sweep) -> Path:
    """Where a sweep's frozen embeddings lie, shared by all sweeps of one storage folder."""
    return Path(sweep.storage).resolve() / "cache"


def _load(model: config.Model) -> encoder.Encoder:
    return encoder.load(model, trial.default_device())
