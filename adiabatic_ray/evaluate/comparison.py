"""Measures encoders on data sets: each on documents that it embeds itself, or all on documents of one base encoder."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets
from adiabatic_ray.evaluate import ranking
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.evaluate.embedded_data import EmbeddingBuilder, EmbeddingProgress
from adiabatic_ray.model import encoder
from adiabatic_ray.trials.layout import StorageFolder

Models = str | Path | config.Model
Sources = str | Path | config.Source


@dataclass(frozen=True)
class Comparison:
    """One encoder's measurement on the sets of `benchmark`, and that of the base that it is compared with, if any."""

    model: config.Model
    benchmark: Benchmark
    measured: Measurement
    base: Measurement | None

    def rows(self) -> list[dict[str, Any]]:
        """One row for each set and measure, with `dataset`, `measure` and `value`.

        With a base, a row also has `base`, `improvement` (in percent) and `p_value`, which is `None` for XNLI.
        """
        return [row for one in self.benchmark.sets for row in self._rows(one.data)]

    def _rows(self, data: sets.DataSet) -> list[dict[str, Any]]:
        measures = ranking.MEASURES if isinstance(data, sets.Ranking) else ("pnd",)
        rows = []
        for measure in measures:
            key = f"{measure}/{data.name}"
            row: dict[str, Any] = {"dataset": data.name, "measure": measure, "value": self.measured.metrics[key]}
            if self.base is not None:
                row["base"] = self.base.metrics[key]
                compared = key if isinstance(data, sets.Ranking) else data.name
                row["improvement"] = self.measured.metrics[f"improvement/{compared}"]
                row["p_value"] = self.measured.metrics.get(f"p_value/{compared}")
            rows.append(row)
        return rows


def evaluate(
    models: Models | Sequence[Models], data: Sources | Mapping[str, Sources], *, against: Models | None = None
) -> pd.DataFrame:
    """Measure encoders on data sets. Return a table with one row for each model, data set and measure.

    `models` are folders or hub ids (a `config.Model` also gives prompts, lengths or pooling). `data` are folders, files
    or hub ids (a `config.Source` also gives a split or columns), by their names in the table. Without `against`, each
    model embeds queries and documents. With `against`, that model embeds the documents, as in a system that stores
    them, and each of `models` is tested against it.

    The columns are `model`, `dataset`, `measure` (`pnd` in percent, or a ranking metric) and `value`; with `against`
    also `base`, `improvement` (percent of the base's discordant triplets, or of its metric) and `p_value` (McNemar's
    exact test, or the paired randomization test of a metric).
    Embeddings are cached in the storage folder (`ADIABATIC_STORAGE`, else `runs`).

    Raises:
        ModelError: a model cannot be loaded, or its dimension is not that of `against`.
        DataError: a data set cannot be read.
    """
    from adiabatic_ray.data import sources

    several = [models] if isinstance(models, Models) else list(models)
    named = data if isinstance(data, Mapping) else {Path(_source(data).path).stem: data}
    read = {name: sets.for_evaluation(sources.load(name, _source(source), seed=0)) for name, source in named.items()}
    cache = StorageFolder.at(config.default_storage()).cache
    comparing = compare([_model(one) for one in several], read, cache, None if against is None else _model(against))
    while True:
        try:
            next(comparing)
        except StopIteration as done:
            return pd.DataFrame([{"model": one.model.name, **row} for one in done.value for row in one.rows()])


def compare(
    models: Sequence[config.Model], data: Mapping[str, sets.DataSet], cache: Path, against: config.Model | None
) -> Generator[EmbeddingProgress, None, list[Comparison]]:
    """Measure each encoder. Yields the progress of embedding and returns one comparison for each of `models`.

    Raises:
        ModelError: a model cannot be loaded, or its dimension is not that of `against`.
    """
    stored = None if against is None else (yield from _embedded(against, data, cache))
    comparisons = []
    for model in models:
        if stored is None:
            _, benchmark = yield from _embedded(model, data, cache)
            comparisons.append(Comparison(model, benchmark, benchmark.untouched(), None))
        else:
            comparisons.append(Comparison(model, stored[1], _measure(model, *stored), stored[1].untouched()))
    return comparisons


def _embedded(
    model: config.Model, data: Mapping[str, sets.DataSet], cache: Path
) -> Generator[EmbeddingProgress, None, tuple[encoder.Encoder, Benchmark]]:
    """Load a model, and make a benchmark of documents that it embeds."""
    loaded = encoder.load(model, encoder.default_device())
    embedded = yield from EmbeddingBuilder(loaded, cache).evaluation_sets(data)
    return loaded, Benchmark(embedded, device=loaded.device)


def _measure(model: config.Model, base: encoder.Encoder, benchmark: Benchmark) -> Measurement:
    """Measure a model's queries on the base's documents."""
    tuned = encoder.load(model, encoder.default_device())
    if tuned.dimension != base.dimension:
        raise errors.ModelError(
            f"{model.name} embeds into {tuned.dimension} dimensions and {base.settings.name} into {base.dimension}; "
            "they cannot be compared on the same documents."
        )
    return benchmark.measure(lambda texts: tuned.encode(texts, "query"))


def _model(model: Models) -> config.Model:
    return model if isinstance(model, config.Model) else config.Model(name=str(model))


def _source(source: Sources) -> config.Source:
    return source if isinstance(source, config.Source) else config.Source(path=str(source))
