"""What every trial of a sweep shares: the data sets, and the frozen embeddings of their texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adiabatic_ray import config, errors
from adiabatic_ray.data import cache, sets
from adiabatic_ray.data.cache import Table
from adiabatic_ray.data.sets import DataSet, Triplets
from adiabatic_ray.evaluate import benchmark
from adiabatic_ray.evaluate.benchmark import Part
from adiabatic_ray.model.encoder import Encoder, Side


@dataclass(frozen=True)
class Data:
    """The data sets of a sweep, as read."""

    train: Triplets
    selection: Mapping[str, DataSet]
    confirmation: Mapping[str, DataSet]

    def all(self) -> list[DataSet]:
        return [self.train, *self.selection.values(), *self.confirmation.values()]


@dataclass(frozen=True)
class Materials:
    """The data sets without their passages' texts, beside the tables that hold their embeddings."""

    train: Triplets
    train_passages: Table
    selection: Sequence[Part]
    confirmation: Sequence[Part]


@dataclass(frozen=True)
class Filling:
    """Progress of filling one table: of which set and side, and how many of how many texts."""

    name: str
    side: Side
    progress: cache.Progress


class Filler:
    """Finds or computes tables under `root`; its generators yield progress and return what was asked for."""

    def __init__(self, encoder: Encoder, root: Path) -> None:
        self.encoder, self.root = encoder, root
        self._fingerprints: dict[Side, str] = {side: encoder.fingerprint(side) for side in ("query", "passage")}

    def table(self, name: str, side: Side, texts: Sequence[str]) -> Generator[Filling, None, Table]:
        """The embeddings of some texts of the set `name`."""
        filling = cache.fill(
            self.root, self._fingerprints[side], texts, lambda t: self.encoder.encode(t, side), self.encoder.dimension
        )
        while True:
            try:
                yield Filling(name, side, next(filling))
            except StopIteration as done:
                found: Table = done.value
                return found

    def part(self, name: str, data: DataSet) -> Generator[Filling, None, Part]:
        """An evaluation set with the embeddings of its passages and queries."""
        passages = yield from self.table(name, "passage", data.passages)
        queries = yield from self.table(name, "query", data.queries)
        return Part(sets.without_passages(data), passages, queries)

    def materials(self, data: Data) -> Generator[Filling, None, Materials]:
        """All that the trials of a sweep share."""
        train_passages = yield from self.table("train", "passage", data.train.passages)
        selection, confirmation = [], []
        for name, found in data.selection.items():
            selection.append((yield from self.part(name, found)))
        for name, found in data.confirmation.items():
            confirmation.append((yield from self.part(f"{name} (confirmation)", found)))
        train = sets.without_passages(data.train)
        assert isinstance(train, Triplets)
        return Materials(train, train_passages, selection, confirmation)


def read(sweep: config.Sweep) -> Data:
    """Read all data sets of a sweep and check that they fit their roles.

    Raises:
        DataError: a set cannot be read.
        ConfigError: the objective or the constraint names a set of the wrong kind, or the training data are none.
    """
    from adiabatic_ray.data import sources  # a trial, which uses this module too, needs no `datasets`

    train = sources.load("train", sweep.train.data, sweep.seed)
    if not isinstance(train, Triplets):
        raise errors.ConfigError(f"train.data: {sweep.train.data.path} holds no triplets to train on.")
    selection, confirmation = (
        {name: sources.load(name, source, sweep.seed) for name, source in section.items()}
        for section in (sweep.evaluate.selection, sweep.evaluate.confirmation)
    )
    for section in (selection, confirmation):
        if section:
            benchmark.check_roles(section, sweep.search.objective, sweep.constraint)
    return Data(train, selection, confirmation)


def described(sweep: config.Sweep, data: Data) -> list[dict[str, str]]:
    """The data sets for MLflow's list of inputs: name, context, path, size, and a digest of all texts."""
    entries = [("train", "training", data.train, sweep.train.data)]
    for context in ("selection", "confirmation"):
        sources, found = getattr(sweep.evaluate, context), getattr(data, context)
        entries += [(name, context, found[name], sources[name]) for name in sources]
    return [
        {
            "name": name,
            "context": context,
            "digest": _digest(dataset),
            "path": source.path,
            "profile": json.dumps({"rows": len(dataset)}),
        }
        for name, context, dataset, source in entries
    ]


def _digest(dataset: DataSet) -> str:
    digest = hashlib.sha256()
    for text in (*dataset.queries, *dataset.passages):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]
