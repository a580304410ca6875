"""The data sets of a sweep as MLflow's list of inputs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag

from adiabatic_ray import config
from adiabatic_ray.data.sets import DataSet
from adiabatic_ray.evaluate.embedded_data import Data


def inputs(sweep: config.Sweep, data: Data) -> list[DatasetInput]:
    """One input for each data set, with its name, context, path, size, and a digest of all texts."""
    selection, confirmation = sweep.evaluate.selection, sweep.evaluate.confirmation
    return [
        _input("train", "training", sweep.train.data, data.train),
        *(_input(name, "selection", selection[name], data.selection[name]) for name in selection),
        *(_input(name, "confirmation", confirmation[name], data.confirmation[name]) for name in confirmation),
    ]


def _input(name: str, context: str, source: config.Source, data: DataSet) -> DatasetInput:
    dataset = Dataset(
        name=name,
        digest=_digest(data),
        source_type="local" if Path(source.path).exists() else "hugging_face",
        source=json.dumps({"path": source.path}),
        profile=json.dumps({"rows": len(data)}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _digest(data: DataSet) -> str:
    digest = hashlib.sha256()
    for text in (*data.queries, *data.passages):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]
