"""The commands that need no Ray: fill the cache, train once, measure encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from adiabatic_ray import config, errors
from adiabatic_ray.data.sets import Ranking, Xnli, for_evaluation
from adiabatic_ray.evaluate import comparison, embedded_data, ranking
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.model import encoder, export
from adiabatic_ray.report import figures, heat_maps
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.train import trial
from adiabatic_ray.trials.layout import StorageFolder


def embed(sweep: config.Sweep, console: Console) -> None:
    """Fill the cache of frozen embeddings that a run of this sweep will use."""
    data = embedded_data.read(sweep)
    console.dropped(data.all())
    builder = _builder(sweep)
    console.drain(builder.embedded_data(data))
    console.say(f"filled the cache: {builder.root}")


def train(sweep: config.Sweep, out: Path, console: Console) -> None:
    """Train once with the settings of the `train` section, and write the query encoder to `out`.

    Raises:
        SweepError: the training diverged or ran out of memory. Nothing was written.
    """
    data = embedded_data.read(sweep)
    console.dropped(data.all())
    builder = _builder(sweep)
    model, embedded = builder.encoder, console.drain(builder.embedded_data(data))
    prepared = trial.TrainingData.prepare(embedded.train, embedded.train_passages.open(), model)
    benchmark = Benchmark(embedded.selection, sweep.search.gain, sweep.constraint, model.device)
    for progress in trial.run(model, prepared, sweep.train, benchmark.measure, seed=sweep.seed):
        console.point(progress)
        if progress.status == "complete":
            assert progress.displacement is not None
            export.save(model, out, progress.displacement.weights())
            console.say(f"query encoder: {out}")
    if progress.status != "complete":
        raise errors.SweepError(f"training ended as {progress.status}: {progress.reason}; nothing was written.")


def evaluate(
    models: Sequence[config.Model],
    against: config.Model | None,
    sources: Mapping[str, config.Source],
    out: Path,
    console: Console,
    sweep: config.Sweep | None = None,
) -> None:
    """Measure encoders on data sets. Write `discordance.csv`, and `ranking.csv` for BEIR sets, to `out`.

    With several encoders, each has its own folder in `out`. XNLI sets are also drawn as heat maps, which share one
    scale. With `against`, that encoder embeds the documents, as in a system that stores them. If the data come from a
    sweep file, `sweep` has its settings, and the sweep's cache and seed are used.

    Raises:
        DataError: a data set cannot be read.
        ModelError: an encoder cannot be loaded, or its dimension is not that of `against`.
    """
    from adiabatic_ray.data import sources as reading

    seed, cache = (0, out / "cache") if sweep is None else (sweep.seed, cache_folder(sweep))
    data = {name: for_evaluation(reading.load(name, source, seed)) for name, source in sources.items()}
    console.dropped(data.values())
    compared = console.drain(comparison.compare(models, data, cache, against))
    labels = _labels([model.name for model in models])
    folders = [out / label if len(models) > 1 else out for label in labels]
    for one, folder in zip(compared, folders, strict=True):
        if len(models) > 1:
            console.say(f"\n{one.model.name}")
        console.comparison(one)
        _write(one, folder)
        console.say(f"wrote {folder / 'discordance.csv'}")
    for name, dataset in data.items():
        if isinstance(dataset, Xnli):
            outcomes = [one.measured.outcomes[name] for one in compared]
            largest = max(100 * float(outcome.float().mean(0).max()) for outcome in outcomes)
            for label, folder, outcome in zip(labels, folders, outcomes, strict=True):
                figure = heat_maps.pnd(outcome, dataset.languages, f"{label}: PND on {name}", largest)
                console.say(f"drew {figures.save(figure, folder, f'pnd_{name}')[0]}")


def _write(compared: comparison.Comparison, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    paired = compared.base is not None
    compared.benchmark.write_discordance(folder / "discordance.csv", compared.measured, paired=paired)
    rows = [
        (one.data.name, measure, compared.measured.metrics[f"{measure}/{one.data.name}"])
        for one in compared.benchmark.sets
        if isinstance(one.data, Ranking)
        for measure in (*ranking.MEASURES, "ndcg_at_10_change")
    ]
    if rows:
        pd.DataFrame(rows, columns=["dataset", "measure", "value"]).to_csv(folder / "ranking.csv", index=False)


def _labels(names: Sequence[str]) -> list[str]:
    """The folders' names: the last part of each model's name, with a number if two are the same."""
    short = [Path(name).name for name in names]
    return [f"{name}_{i}" if short.count(name) > 1 else name for i, name in enumerate(short, start=1)]


def cache_folder(sweep: config.Sweep) -> Path:
    """The folder of a sweep's frozen embeddings, which all sweeps in one storage folder share."""
    return StorageFolder.at(sweep.storage).cache


def _builder(sweep: config.Sweep) -> embedded_data.EmbeddingBuilder:
    return embedded_data.EmbeddingBuilder(encoder.load(sweep.model, encoder.default_device()), cache_folder(sweep))
