"""The data that all trials of a sweep share: its sets, and the untouched encoder's embeddings of their texts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray import config, errors, storage
from adiabatic_ray.data import cache, sets, stored
from adiabatic_ray.evaluate import agreement, benchmark, mining
from adiabatic_ray.model.encoder import Encoder, Side

Texts = tuple[Side, Sequence[str]]  # the texts of one table, and their side
# From the texts of several tables to blocks, table by table: the table's index, and embeddings of its next texts.
Embed = Callable[[Sequence[Texts]], Iterable[tuple[int, Tensor]]]


@dataclass(frozen=True)
class Data:
    """The data sets of a sweep, as read; with `negatives` those of `train` are mined, with the seed."""

    train: sets.Triplets
    selection: Mapping[str, sets.DataSet]
    confirmation: Mapping[str, sets.DataSet]
    negatives: config.Negatives | None = None
    seed: int = 0

    def all(self) -> list[sets.DataSet]:
        return [self.train, *self.selection.values(), *self.confirmation.values()]


@dataclass(frozen=True)
class EmbeddedData:
    """The data sets without their passage texts, and the tables that hold the embeddings instead."""

    train: sets.Triplets
    train_passages: cache.Table
    selection: Sequence[benchmark.EvaluationSet]
    confirmation: Sequence[benchmark.EvaluationSet]


@dataclass(frozen=True)
class EmbeddingProgress:
    """How many texts of one set and side are embedded."""

    name: str
    side: Side
    progress: cache.Progress


def read(sweep: config.Sweep) -> Data:
    """Read all data sets of a sweep and check that they fit their roles.

    Raises:
        DataError: a set cannot be read.
        ConfigError: the objective, the constraint or the training data are a set of the wrong kind.
    """
    from adiabatic_ray.data import ranking_sources, sources  # import `datasets`, which a trial does without

    train = sources.load("train", sweep.train.data, sweep.seed)
    if not isinstance(train, sets.Triplets):
        raise errors.ConfigError(f"train.data: {sweep.train.data.path} holds no triplets to train on.")
    losses = _searched(sweep, "loss") or [sweep.train.loss]
    if train.pairs and sweep.train.negatives is None and "triplet_margin" in losses:
        raise errors.ConfigError(
            f"train.data: {sweep.train.data.path} holds pairs, and the loss `triplet_margin` needs negatives. "
            "Train with `loss: infonce`, whose negatives are the other passages of a batch, or mine some with "
            "`train.negatives`, or add a column `negative`."
        )
    if "margin_mse" in losses and (train.margins is None or sweep.train.negatives is not None):
        raise errors.ConfigError(
            f"train.data: {sweep.train.data.path} has no teacher's scores for the loss `margin_mse`: a column `score` "
            "or `label` with the margin between positive and negative, or with both scores. Mined negatives have none."
        )
    negatives = sweep.train.negatives
    if negatives and negatives.corpus:
        more = ranking_sources.corpus("train.negatives.corpus", negatives.corpus)
        train = _with_passages(train, more)
    selection, confirmation = (
        {name: _in_its_role(sources.load(name, source, sweep.seed), sweep) for name, source in section.items()}
        for section in (sweep.evaluate.selection, sweep.evaluate.confirmation)
    )
    for section in (selection, confirmation):
        if section:
            benchmark.check_roles(section, sweep.search.gain, sweep.constraint)
    return Data(train, selection, confirmation, negatives, sweep.seed)


def _with_passages(train: sets.Triplets, more: Sequence[str]) -> sets.Triplets:
    """The set with more passages, which nobody has stored the embeddings of."""
    passages = list(dict.fromkeys([*train.passages, *more]))
    stored = [
        dataclasses.replace(one, rows=np.pad(one.rows, (0, len(passages) - len(train.passages)), constant_values=-1))
        for one in train.stored  # which is one, of all of its passages
    ]
    return dataclasses.replace(train, passages=passages, stored=stored)


def _searched(sweep: config.Sweep, key: str) -> list[config.Scalar]:
    choices = sweep.search.space.get(key, [])
    return choices if isinstance(choices, list) else []


def _in_its_role(data: sets.DataSet, sweep: config.Sweep) -> sets.DataSet:
    """Triplets as a ranking set where the objective or a guard names a ranking metric of them."""
    metrics = {guard.metric for guard in sweep.constraint.guarded if guard.data == data.name}
    if sweep.search.gain.data == data.name:
        metrics.add(sweep.search.gain.metric)
    if not isinstance(data, sets.Triplets) or metrics <= {config.IMPROVEMENT}:
        return sets.for_evaluation(data)
    if config.IMPROVEMENT in metrics:
        raise errors.ConfigError(
            f"evaluate.selection.{data.name}: is judged by triplets and by rankings: {', '.join(sorted(metrics))}. "
            "Give the data under a second name, and name that in one of the two roles."
        )
    return sets.as_ranking(data)


class EmbeddingBuilder:
    """Finds or computes tables of embeddings under `root`. Its generators yield progress and return the result.

    If `embed` is given, it computes the embeddings in place of `encoder`, on a cluster say.
    """

    def __init__(self, encoder: Encoder, root: Path, embed: Embed | None = None) -> None:
        self.encoder, self.root, self._embed = encoder, root, embed or self._embed_here
        self._agreeing: list[config.Embeddings] = []
        self._fingerprints: dict[Side, str] = {side: encoder.fingerprint(side) for side in ("query", "passage")}

    def embedded_data(self, data: Data) -> Generator[EmbeddingProgress, None, EmbeddedData]:
        """Embed all data sets of a sweep."""
        confirmation = {f"{name} (confirmation)": dataset for name, dataset in data.confirmation.items()}
        wanted = [_Wanted("train", "passage", data.train.passages, data.train.stored)]
        if data.negatives:
            wanted.append(_Wanted("train", "query", data.train.queries))
        tables = yield from self._tables(wanted + _wanted(data.selection) + _wanted(confirmation))
        evaluated = self._sets([*data.selection.values(), *confirmation.values()], tables[len(wanted) :])
        train = data.train
        if data.negatives:
            train = mining.mined(
                self.root, train, tables[1], tables[0], data.negatives, data.seed, self.encoder.similarity
            )
        train = dataclasses.replace(train, passages=[])
        return EmbeddedData(train, tables[0], evaluated[: len(data.selection)], evaluated[len(data.selection) :])

    def evaluation_sets(
        self, data: Mapping[str, sets.DataSet]
    ) -> Generator[EmbeddingProgress, None, list[benchmark.EvaluationSet]]:
        """Embed the passages and the queries of evaluation sets."""
        return self._sets(list(data.values()), (yield from self._tables(_wanted(data))))

    def _sets(self, data: Sequence[sets.DataSet], tables: Sequence[cache.Table]) -> list[benchmark.EvaluationSet]:
        """Join sets with their tables. `tables` alternates between passages and queries."""
        return [
            benchmark.EvaluationSet(sets.without_passages(dataset), *pair, self.encoder.similarity)
            for dataset, pair in zip(data, zip(tables[::2], tables[1::2], strict=True), strict=True)
        ]

    def _tables(self, wanted: Sequence[_Wanted]) -> Generator[EmbeddingProgress, None, list[cache.Table]]:
        """Find the tables, and compute all missing ones in one call of `embed`."""
        tables: list[cache.Table | None] = []
        for one in wanted:
            if one.stored:
                tables.append((yield from self._stored(one)))
            else:
                fingerprint = self._fingerprints[one.side]
                tables.append(cache.find(self.root, fingerprint, one.texts, self.encoder.dimension))
        missing = [i for i, table in enumerate(tables) if table is None]
        stream = itertools.groupby(self._embed([(wanted[i].side, wanted[i].texts) for i in missing]), key=_position)
        for position, i in enumerate(missing):
            fingerprint = self._fingerprints[wanted[i].side]
            tables[i] = yield from self._fill(wanted[i], fingerprint, _of_table(stream, position))
        return [table for table in tables if table is not None]

    def _fill(
        self, wanted: _Wanted, fingerprint: str, blocks: Iterable[Tensor], *, copied: bool = False
    ) -> Generator[EmbeddingProgress, None, cache.Table]:
        """Fill a table. Of one that is only copied, nothing is embedded, so that only its notes are progress."""
        filling = cache.fill(self.root, fingerprint, wanted.texts, blocks, self.encoder.dimension)
        while True:
            try:
                progress = next(filling)
                if progress.note or not copied:
                    yield EmbeddingProgress(wanted.name, wanted.side, progress)
            except StopIteration as done:
                table: cache.Table = done.value
                return table

    def _stored(self, wanted: _Wanted) -> Generator[EmbeddingProgress, None, cache.Table]:
        """A table of stored embeddings: the user's own file where it can be mapped as it is, else a copy in the cache.

        Passages that the stores lack are embedded.
        """
        opened = []
        for placed, texts in stored.with_texts(wanted.stored, wanted.texts):
            store = stored.open_store(wanted.name, placed.source, self.encoder.dimension)
            if placed.source not in self._agreeing:
                agreement.measure(wanted.name, texts, placed, store, self.encoder)
                self._agreeing.append(placed.source)
            opened.append((store, placed))
        path = Path(placed.source.path).absolute()
        unit = self.encoder.similarity == "cosine"
        if (
            len(opened) == 1
            and stored.is_whole(store, placed)
            and not storage.is_remote(str(self.root))
            and (not unit or stored.is_unit(store))
        ):
            return cache.Table(str(path.parent), store.count, store.dimension, path.name)
        rows = np.concatenate([one.rows for one in wanted.stored])
        lacking = [text for text, row in zip(wanted.texts, rows.tolist(), strict=True) if row < 0]
        own = torch.empty(0, self.encoder.dimension)
        if lacking:
            files = ", ".join(Path(one.source.path).name for one in wanted.stored)
            note = f"{wanted.name}: {len(lacking):,} of {len(wanted.texts):,} passages are not in {files}"
            yield EmbeddingProgress(wanted.name, wanted.side, cache.Progress(0, len(lacking), note))
            (table,) = yield from self._tables([_Wanted(wanted.name, wanted.side, lacking)])
            own = table.open()
        digests = [f"{store.digest()} {placed.digest()}" for store, placed in opened]
        fingerprint = " ".join([self._fingerprints[wanted.side], *digests])
        return (yield from self._fill(wanted, fingerprint, _blocks(opened, own, unit=unit), copied=True))

    def _embed_here(self, texts: Sequence[Texts]) -> Iterator[tuple[int, Tensor]]:
        for position, (side, own) in enumerate(texts):
            for chunk in cache.chunks(own):
                yield position, self.encoder.encode(chunk, side)


@dataclass(frozen=True)
class _Wanted:
    """A table that is needed: the name of its set, its side, its texts, and where the user has stored it, if so."""

    name: str
    side: Side
    texts: Sequence[str]
    stored: Sequence[sets.Stored] = ()


def _blocks(opened: Sequence[tuple[stored.Store, sets.Stored]], own: Tensor, *, unit: bool) -> Iterator[Tensor]:
    """The embeddings of all passages in order: stored ones, and of those that the stores lack the next of `own`."""
    done = 0
    for store, placed in opened:
        for rows in np.split(placed.rows, range(cache.TEXTS_PER_CHUNK, len(placed.rows), cache.TEXTS_PER_CHUNK)):
            there = torch.from_numpy(rows >= 0)
            block = torch.empty(len(rows), store.dimension)
            block[there] = store.read(rows[rows >= 0])
            lacking = int((~there).sum())
            block[~there] = own[done : done + lacking]
            done += lacking
            yield torch.nn.functional.normalize(block) if unit else block


def _wanted(data: Mapping[str, sets.DataSet]) -> list[_Wanted]:
    both = (
        (
            _Wanted(name, "passage", dataset.passages, () if isinstance(dataset, sets.Xnli) else dataset.stored),
            _Wanted(name, "query", dataset.queries),
        )
        for name, dataset in data.items()
    )
    return list(itertools.chain.from_iterable(both))


def _position(block: tuple[int, Tensor]) -> int:
    return block[0]


def _of_table(stream: Iterator[tuple[int, Iterator[tuple[int, Tensor]]]], position: int) -> Iterator[Tensor]:
    """The blocks of one table from the stream. Blocks of earlier tables that nobody needed are skipped."""
    for at, blocks in stream:
        if at == position:
            yield from (block for _, block in blocks)
            return
