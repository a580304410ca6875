"""What every trial of a sweep shares: the data sets, and the frozen embeddings of their texts."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from adiabatic_ray import config, errors, storage
from adiabatic_ray.data import cache, sets
from adiabatic_ray.data.cache import Table
from adiabatic_ray.data.sets import DataSet, Triplets
from adiabatic_ray.evaluate import benchmark
from adiabatic_ray.evaluate.benchmark import Part
from adiabatic_ray.model.encoder import Encoder, Side

Texts = tuple[Side, Sequence[str]]  # of one table
# texts of several tables -> (which table, embeddings of its next texts), the tables one after the other
Embed = Callable[[Sequence[Texts]], Iterable[tuple[int, Tensor]]]


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
    """Finds or computes tables under `root`; its generators yield progress and return what was asked for.

    `embed` does what the encoder itself would do, on more machines than this one.
    """

    def __init__(self, encoder: Encoder, root: Path, embed: Embed | None = None) -> None:
        self.encoder, self.root, self._embed = encoder, root, embed or self._embed_here
        self._fingerprints: dict[Side, str] = {side: encoder.fingerprint(side) for side in ("query", "passage")}

    def materials(self, data: Data) -> Generator[Filling, None, Materials]:
        """All that the trials of a sweep share."""
        confirmation = {f"{name} (confirmation)": found for name, found in data.confirmation.items()}
        wanted = [Wanted("train", "passage", data.train.passages)]
        tables = yield from self._tables(wanted + _wanted(data.selection) + _wanted(confirmation))
        parts = _parts([*data.selection.values(), *confirmation.values()], tables[1:])
        train = sets.without_passages(data.train)
        assert isinstance(train, Triplets)
        return Materials(train, tables[0], parts[: len(data.selection)], parts[len(data.selection) :])

    def parts(self, data: Mapping[str, DataSet]) -> Generator[Filling, None, list[Part]]:
        """Evaluation sets with the embeddings of their passages and queries."""
        return _parts(list(data.values()), (yield from self._tables(_wanted(data))))

    def _tables(self, wanted: Sequence[Wanted]) -> Generator[Filling, None, list[Table]]:
        """The tables, of which those that are not there are computed in one go."""
        tables = [
            cache.find(self.root, self._fingerprints[one.side], one.texts, self.encoder.dimension) for one in wanted
        ]
        missing = [i for i, table in enumerate(tables) if table is None]
        stream = itertools.groupby(self._embed([(wanted[i].side, wanted[i].texts) for i in missing]), key=_first)
        for position, i in enumerate(missing):
            one = wanted[i]
            filling = cache.fill(
                self.root,
                self._fingerprints[one.side],
                one.texts,
                _own(stream, position),
                self.encoder.dimension,
            )
            while tables[i] is None:
                try:
                    yield Filling(one.name, one.side, next(filling))
                except StopIteration as done:
                    tables[i] = done.value
        return [table for table in tables if table is not None]

    def _embed_here(self, texts: Sequence[Texts]) -> Iterator[tuple[int, Tensor]]:
        for position, (side, own) in enumerate(texts):
            for chunk in cache.chunks(own):
                yield position, self.encoder.encode(chunk, side)


@dataclass(frozen=True)
class Wanted:
    """A table: of which set, and of which side's texts."""

    name: str
    side: Side
    texts: Sequence[str]


def _wanted(data: Mapping[str, DataSet]) -> list[Wanted]:
    both = (
        (Wanted(name, "passage", found.passages), Wanted(name, "query", found.queries)) for name, found in data.items()
    )
    return list(itertools.chain.from_iterable(both))


def _parts(data: Sequence[DataSet], tables: Sequence[Table]) -> list[Part]:
    """Sets beside their tables, which alternate between passages and queries."""
    return [
        Part(sets.without_passages(found), *pair)
        for found, pair in zip(data, zip(tables[::2], tables[1::2], strict=True), strict=True)
    ]


def _first(block: tuple[int, Tensor]) -> int:
    return block[0]


def _own(stream: Iterator[tuple[int, Iterator[tuple[int, Tensor]]]], position: int) -> Iterator[Tensor]:
    """One table's part of the stream; those before it that nobody needed any more are passed over."""
    for at, blocks in stream:
        if at == position:
            yield from (block for _, block in blocks)
            return


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


def for_all_nodes(sweep: config.Sweep) -> config.Sweep:
    """The sweep with a model that every node can load.

    Nodes that keep results in an object store need have no disk in common, so a model in a folder is put there too.
    """
    name = sweep.model.name
    if not storage.is_remote(sweep.storage) or not Path(name).is_dir():
        return sweep
    digest = hashlib.sha256()
    for file in sorted(path for path in Path(name).rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(name)} {hashlib.sha256(file.read_bytes()).hexdigest()} ".encode())
    shared = storage.folder(sweep.storage) / "models" / digest.hexdigest()[:32]
    if not storage.exists(shared / "config.json"):
        with storage.building(shared, last="config.json") as partial:
            shutil.copytree(name, partial, dirs_exist_ok=True)
    return dataclasses.replace(sweep, model=dataclasses.replace(sweep.model, name=str(shared)))


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
