"""The schema of a sweep file and its checks.

These are plain dataclasses, so that trainers and evaluators need only the standard library to be configured.
`sweep_file.load` reads a YAML file into a `Sweep`. The line under a field explains it; `schema` hands it to editors.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Scalar = float | int | str | bool

Column = Literal["query", "positive", "negative", "premise", "hypothesis", "label", "language", "text_language", "id"]

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
RANKED_BY: dict[Similarity, str] = {
    "cosine": "cosines",
    "dot": "dot products",
    "euclidean": "Euclidean distances",
    "manhattan": "Manhattan distances",
}

Layout = Literal["triplets", "xnli", "beir", "miracl", "mmarco", "msmarco_triples", "msmarco_ids", "msmarco_qrels"]

# pydantic reads this from the dataclasses when a file is loaded, and when `schema` asks for their JSON schema.
STRICT = {"extra": "forbid"}


IMPROVEMENT = "improvement"
# `improvement` is that of discordant triplets; the others are of rankings.
_METRIC = re.compile(r"improvement|map|(?:ndcg|mrr|recall|precision)_at_([1-9][0-9]*)")


class InvalidValue(ValueError):
    """A value that its key does not allow. `key` is relative to the section that raised it."""

    def __init__(self, key: str, problem: str) -> None:
        self.key, self.problem = key, problem
        super().__init__(f"`{key}` {problem}")


def _require(holds: bool, key: str, problem: str) -> None:
    if not holds:
        raise InvalidValue(key, problem)


def metric_depth(metric: str) -> int:
    """How many passages a metric with a cut looks at: 10 of `ndcg_at_10`."""
    return int(metric.rpartition("_at_")[2])


def metric_key(data: str, metric: str) -> str:
    """What a data set is judged by, as it is named in metrics: `msmarco`, or `mrr_at_10/questions`."""
    return data if metric == IMPROVEMENT else f"{metric}/{data}"


def is_metric(name: str) -> bool:
    """Whether a text names a metric."""
    return _METRIC.fullmatch(name) is not None


def _require_metric(metric: str) -> None:
    _require(
        is_metric(metric),
        "metric",
        f"must be `improvement` (triplets, XNLI), `map`, or `ndcg_at_K`, `mrr_at_K`, `recall_at_K` or `precision_at_K` "
        f"with a number for K (ranking sets), but got {metric!r}",
    )


def _holds_password(address: str) -> bool:
    return re.search(r"//[^/@]*:[^/@]*@", address) is not None


@dataclass(frozen=True, kw_only=True)
class Sides:
    """A text for queries and one for passages."""

    __pydantic_config__: ClassVar = STRICT
    query: str | None = None
    """Text put before every query; the model's own query prompt unless given."""
    passage: str | None = None
    """Text put before every passage; the model's own document prompt unless given."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Maximum lengths in tokens."""

    __pydantic_config__: ClassVar = STRICT
    query: int | None = None
    """A query is cut after this many tokens, its prompt included: at least 3, at most the model's own limit."""
    passage: int | None = None
    """A passage is cut after this many tokens, its prompt included: at least 3, at most the model's own limit."""

    def __post_init__(self) -> None:
        for key in ("query", "passage"):
            value = getattr(self, key)
            _require(value is None or value >= 3, key, f"must be at least 3 tokens, but got {value}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """The untouched encoder, in sentence-transformers' or transformers' layout."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    """A hub id, a folder, or the URL of a folder in an object store. The weights must be in safetensors."""
    revision: str | None = None
    """Branch, tag or commit on the hub; its main branch unless given."""
    prompts: Sides = field(default_factory=Sides)
    """Texts put before queries and passages; the model's own unless given."""
    max_length: Lengths = field(default_factory=Lengths)
    """Longest texts, in tokens; the model's own limits unless given."""
    pooling: Literal["mean", "cls", "max", "lasttoken"] | None = None
    """How token vectors become one embedding. The model's own unless given; needed where it names none."""
    similarity: Similarity | None = None
    """What your system ranks by. The model's own unless given; embeddings keep their lengths but for `cosine`."""
    truncate_dim: int | None = None
    """Of a Matryoshka encoder so many first dimensions, which your system ranks by; all unless given."""
    dtype: Literal["bfloat16", "float16"] | None = None
    """Of the frozen document side, as your documents were embedded; float32 unless given, as the query side always."""
    trust_remote_code: bool = False
    """Whether to run the code that comes with the model; on the hub `revision` must then be a commit."""

    def __post_init__(self) -> None:
        _require(
            self.truncate_dim is None or self.truncate_dim >= 1,
            "truncate_dim",
            f"must be at least 1, but got {self.truncate_dim}",
        )
        _require(
            not self.trust_remote_code
            or os.path.isdir(self.name)  # noqa: PTH112 - may be no path at all
            or re.fullmatch(r"[0-9a-f]{40}", self.revision or "") is not None,
            "revision",
            "must be a commit (40 hex digits) beside `trust_remote_code: true`, since a branch or a tag may get other "
            f"code at any time, but got {self.revision!r}",
        )


OF_LANGUAGE = "{language}"  # in the name of a file of embeddings


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Embeddings of a data set's passages that you have stored, made by the untouched encoder.

    Where there is a corpus for each language, `{language}` in the names of the files stands for it.
    """

    __pydantic_config__: ClassVar = STRICT
    path: str
    """A .npy, .safetensors, parquet, Arrow, JSONL or FAISS file with a row for each passage, in the corpus' order."""
    ids: str | None = None
    """The passage id of each row (.npy, .json, or a text line each), where neither a column nor the index has them."""
    ranges: str | None = None
    """Of int8 and uint8: a .npy `[2, dimension]`, the lowest and highest values that `quantize_embeddings` got."""

    def __post_init__(self) -> None:
        _require(bool(self.path), "path", "must not be empty")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set lies: a hub id, a folder, or a parquet, JSONL, TSV or CSV file.

    Its columns say what kind of set it is: `query, positive, negative` (triplets) or `premise, hypothesis, label`
    (XNLI). A folder with corpus, queries and judgements is BEIR, and one of such folders is a set in several languages.
    """

    __pydantic_config__: ClassVar = STRICT
    path: str
    """A hub id, a folder, or a file (parquet, JSONL, JSON, TSV, CSV)."""
    name: str | None = None
    """The hub's word for a subset of a data set, such as `all_languages` of `facebook/xnli`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; its main branch unless given."""
    layout: Layout | None = None
    """What the data are, where their names and columns do not say so or say several; `msmarco_*` have no header."""
    split: str | None = None
    """In the hub's notation (`train[:2000]`), for local files too; also of a BEIR folder's queries (`test[:50%]`)."""
    columns: dict[Column, str] = field(default_factory=dict)
    """What the data call a column, by our word for it: `{positive: relevant_passage}`."""
    languages: list[str] | None = None
    """The languages to use, of XNLI or of a set with a column `language` or a folder each; all of them unless given."""
    limit: int | None = None
    """Take this many triplets, premises or queries, of each folder where there are several; all unless given."""
    embeddings: str | Embeddings | None = None
    """A file with the passages' embeddings as you have stored them, or `{path, ids, ranges}`; embedded unless given."""

    def __post_init__(self) -> None:
        _require(bool(self.path), "path", "must not be empty")
        _require(self.limit is None or self.limit > 0, "limit", f"must be positive, but got {self.limit}")
        _require(self.languages is None or len(self.languages) > 0, "languages", "must not be an empty list")

    @property
    def stored(self) -> Embeddings | None:
        """The stored embeddings, also where the short form names only the file."""
        return Embeddings(path=self.embeddings) if isinstance(self.embeddings, str) else self.embeddings


def in_language(source: Source, language: str) -> Source:
    """The source of one language of a data set that has a corpus for each, with the embeddings of that language."""
    stored = source.stored and Embeddings(
        **{key: value and value.replace(OF_LANGUAGE, language) for key, value in vars(source.stored).items()}
    )
    return dataclasses.replace(source, languages=None, embeddings=stored)


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Hard negatives that are mined from the passages of the training data, named as in sentence-transformers.

    They replace those of the data.
    """

    __pydantic_config__: ClassVar = STRICT
    corpus: Source | None = None
    """More passages to mine from: a BEIR folder, a hub id with a subset `corpus`, or a table with a column `text`."""
    num_negatives: int = 1
    """The most negatives of a query."""
    range_min: int = 0
    """How many of the nearest passages to skip, since they may be answers that nobody judged."""
    range_max: int | None = None
    """How many of the nearest passages to choose from; as many as are needed unless given."""
    absolute_margin: float | None = None
    """A negative's similarity is at least this much below that of the positive; no margin unless given."""
    relative_margin: float | None = None
    """The same as a part of the positive's similarity: 0.05 for at most 95% of it; no margin unless given."""
    max_score: float | None = None
    """The largest similarity of a negative; no limit unless given."""
    min_score: float | None = None
    """The smallest similarity of a negative; no limit unless given."""
    sampling_strategy: Literal["top", "random"] = "top"
    """`top` takes the nearest passages, `random` draws from the range with the sweep's seed."""

    def __post_init__(self) -> None:
        _require(self.num_negatives >= 1, "num_negatives", f"must be at least 1, but got {self.num_negatives}")
        _require(self.range_min >= 0, "range_min", f"must not be negative, but got {self.range_min}")
        _require(
            self.range_max is None or self.range_max >= self.range_min + self.num_negatives,
            "range_max",
            f"must be at least `range_min` and `num_negatives` together ({self.range_min + self.num_negatives}), but "
            f"got {self.range_max}",
        )
        _require(
            self.corpus is None or self.corpus.embeddings is None,
            "corpus.embeddings",
            "cannot be given here: these passages are embedded",
        )


@dataclass(frozen=True, kw_only=True)
class Train:
    """How one trial trains. All but `data`, `negatives` and `evaluations` can be searched over instead of fixed."""

    __pydantic_config__: ClassVar = STRICT
    data: Source
    """The triplets to train on."""
    negatives: Negatives | None = None
    """How to mine hard negatives from the passages; those of the data are used unless given."""
    loss: Literal["triplet_margin", "infonce", "margin_mse"] = "triplet_margin"
    """The paper's. `infonce` takes the batch's other passages as negatives, too; `margin_mse` learns from a teacher."""
    learning_rate: float = 2e-8
    """AdamW's, constant after the warm-up. 2e-8 is where the paper's range for multilingual E5 begins."""
    batch_size: int = 14
    """Triplets in a batch, over all processes of a trial; 14 as in the paper."""
    margin: float = 0.1
    """Of the loss `triplet_margin`, on the similarity; 0.1 as in the paper, which has cosines."""
    temperature: float = 0.05
    """Of the loss `infonce`, which divides similarities by it; 0.05 as in sentence-transformers (`scale` 20)."""
    freeze: str = "embeddings"
    """Mask of weights that stay as they are: roles or patterns of names joined with `+`, or `none`."""
    rank: int | None = None
    """Of low-rank displacements (LoRA) of the transformer's linear maps that the mask leaves; full unless given."""
    steps: int | None = None
    """Optimiser steps of a trial; give this or `epochs`."""
    epochs: float | None = None
    """Passes over the training data, also a part of one; give this or `steps`."""
    warmup_steps: int = 0
    """Optimiser steps in which the learning rate rises to its value; 0 for none."""
    weight_decay: float = 0.0
    """AdamW's, which pulls the weights back to the untouched ones; 0 for none."""
    gradient_accumulation_steps: int = 1
    """Batches to an optimiser step, for more triplets a step than memory holds."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic of a training step; `fp16` needs a GPU. Evaluation is always in float32."""
    dropout: bool = False
    """Whether to train with the dropout that the model defines."""
    seed: int | None = None
    """Of the batches and of dropout, 0 to 2^32 - 1; the sweep's `seed` unless given."""
    evaluations: int = 2
    """How often a trial is measured, at evenly spaced steps up to the last. It can be stopped early only there."""

    def __post_init__(self) -> None:
        for key in ("learning_rate", "margin", "temperature"):
            value = getattr(self, key)
            _require(math.isfinite(value) and value > 0, key, f"must be positive and finite, but got {value}")
        for key in ("batch_size", "gradient_accumulation_steps", "evaluations"):
            value = getattr(self, key)
            _require(value >= 1, key, f"must be at least 1, but got {value}")
        _require(self.warmup_steps >= 0, "warmup_steps", f"must not be negative, but got {self.warmup_steps}")
        _require(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "weight_decay",
            f"must be finite and not negative, but got {self.weight_decay}",
        )
        _require(
            (self.steps is None) != (self.epochs is None),
            "steps",
            "or `epochs` must be given, and not both: how long a trial trains",
        )
        _require(self.steps is None or self.steps >= 1, "steps", f"must be at least 1, but got {self.steps}")
        _require(self.epochs is None or self.epochs > 0, "epochs", f"must be positive, but got {self.epochs}")
        _require(
            self.loss != "infonce" or self.batch_size >= 2,
            "batch_size",
            "must be at least 2 for the loss `infonce`, whose negatives are the other passages of the batch",
        )
        _require(
            self.seed is None or 0 <= self.seed < 2**32, "seed", f"must lie between 0 and 2^32 - 1, but got {self.seed}"
        )
        _require(self.rank is None or self.rank >= 1, "rank", f"must be at least 1, but got {self.rank}")
        _require(bool(self.freeze.strip()), "freeze", "must not be empty; write `none` to freeze nothing")


SEARCHABLE = tuple(f.name for f in dataclasses.fields(Train) if f.name not in ("data", "negatives", "evaluations"))


EXACT = 3  # measurements at the edge, unless a sweep gives its own


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The data sets on which trials are selected, and those on which the best are confirmed."""

    __pydantic_config__: ClassVar = STRICT
    selection: dict[str, Source]
    """Data sets, by names of your choice, on which every trial is measured and the best are selected."""
    confirmation: dict[str, Source] = field(default_factory=dict)
    """Data sets, by the same names, on which only the best are measured. Without any, nothing is confirmed."""
    exact: int = EXACT
    """The most exact measurements with which a finished trial closes in on its edge, beside its whole displacement."""
    scales: list[float] = field(default_factory=list)
    """Parts of its displacement, between 0 and 1, that a finished trial is also measured at; none unless given."""

    def __post_init__(self) -> None:
        _require(
            self.exact >= 1, "exact", f"must be at least 1, since an edge is measured exactly, but got {self.exact}"
        )
        for scale in self.scales:
            _require(
                0 < scale < 1, "scales", f"must lie between 0 and 1 (1 itself is always measured), but got {scale}"
            )
        _require(len(set(self.scales)) == len(self.scales), "scales", f"names a scale twice: {self.scales}")
        _require(len(self.selection) > 0, "selection", "must name at least one data set")
        for section in ("selection", "confirmation"):
            for name in getattr(self, section):
                _require(
                    re.fullmatch(r"[A-Za-z0-9_.-]+", name) is not None,
                    f"{section}.{name}",
                    "is not a usable name: letters, digits, `_`, `.` and `-` only",
                )


@dataclass(frozen=True, kw_only=True)
class Range:
    """An interval to search in, with Optuna's meaning of `log` and `step`."""

    __pydantic_config__: ClassVar = STRICT
    low: float
    """The smallest value; positive on a log scale."""
    high: float
    """The largest value."""
    log: bool = False
    """Whether to draw on a log scale, as suits a learning rate."""
    step: float | None = None
    """Distance between the values, from `low` on; any value between `low` and `high` unless given. Not with `log`."""

    def __post_init__(self) -> None:
        _require(
            math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high,
            "low",
            f"must be below `high`, but got {self.low} and {self.high}",
        )
        _require(not self.log or self.low > 0, "low", f"must be positive on a log scale, but got {self.low}")
        _require(self.step is None or self.step > 0, "step", f"must be positive, but got {self.step}")
        _require(self.step is None or not self.log, "step", "cannot be combined with `log: true`")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is maximised: the gain on a data set by a metric."""

    __pydantic_config__: ClassVar = STRICT
    data: str
    """The name of a selection set."""
    metric: str = IMPROVEMENT
    """`improvement`, or of rankings `ndcg_at_K`, `mrr_at_K`, `recall_at_K`, `precision_at_K` or `map`."""

    def __post_init__(self) -> None:
        _require_metric(self.metric)

    @property
    def key(self) -> str:
        """Its name in metrics and in reports."""
        return metric_key(self.data, self.metric)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, how, and for what."""

    __pydantic_config__: ClassVar = STRICT
    objective: str | Objective
    """The selection set whose gain is maximised: its name, or of a ranking set `{data: NAME, metric: ndcg_at_10}`."""
    space: dict[str, Range | list[Scalar]]
    """What to search over: hyper-parameters of `train`, each with a list of choices or a range."""
    method: Literal["optuna", "grid"] = "optuna"
    """`optuna` proposes each trial from those before; `grid` runs every combination of the lists in `space`."""
    sampler: Literal["auto", "gp", "tpe", "random"] = "auto"
    """Optuna's. `auto` is `gp`, which needs the fewest trials, up to 100 trials, and `tpe` beyond."""
    candidates: Literal["edge", "whole"] = "edge"
    """What a trial is judged by: its `edge`, or its `whole` displacement as in the paper's experiments."""
    soup: bool = False
    """At the end, also add up the displacements of the best trials at their edges. Not for `whole`."""

    @property
    def gain(self) -> Objective:
        """The objective, also where its short form names only the data."""
        return self.objective if isinstance(self.objective, Objective) else Objective(data=self.objective)

    def __post_init__(self) -> None:
        _require(len(self.space) > 0, "space", "must name at least one hyper-parameter")
        for key, choices in self.space.items():
            if isinstance(choices, list):
                _require(len(choices) > 0, f"space.{key}", "must not be an empty choice")
                distinct = {(type(choice), choice) for choice in choices}
                _require(len(distinct) == len(choices), f"space.{key}", f"names a choice twice: {choices}")
            else:
                _require(self.method != "grid", f"space.{key}", "must be a list of values when `search.method` is grid")


LANGUAGE_MARGIN = 3.0  # percent, unless a sweep gives its own


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A data set with a metric on which no language may get worse."""

    __pydantic_config__: ClassVar = STRICT
    data: str
    """The name of an evaluation set."""
    metric: str = IMPROVEMENT
    """As of the objective."""
    margin: float = 1.0
    """Most overall degradation allowed (95% bound), in percent of the untouched encoder's discordance or metric."""
    language_margin: float | None = None
    """Most degradation of any query language that confirmation must rule out, in percent as `margin`; else 3."""
    level: Literal["pair", "language", "overall"] = "pair"
    """What is tested: each pair of query and text language (the next coarser without), query language, or `overall`."""

    def __post_init__(self) -> None:
        _require_metric(self.metric)
        _require_margins(self)

    @property
    def key(self) -> str:
        """Its name in metrics and in reports."""
        return metric_key(self.data, self.metric)

    @property
    def margin_by_language(self) -> float:
        """The margin of each query language, in percent."""
        return LANGUAGE_MARGIN if self.language_margin is None else self.language_margin


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """No language gets worse, as `evaluate.significance` defines it: on one guarded set (`data`), or on several."""

    __pydantic_config__: ClassVar = STRICT
    data: str | None = None
    """The name of the set on which no language may get worse, XNLI or triplets; else give `guards`."""
    guards: list[Guard] = field(default_factory=list)
    """Several guarded sets, or ranking sets: each with its own `metric`, `margin`, `language_margin` and `level`."""
    alpha: float = 0.05
    """Error rate of the two-tailed tests for harm, shared by everything that is guarded (Bonferroni)."""
    margin: float = 1.0
    """Most overall degradation allowed (95% bound), in percent of the untouched encoder's discordant triplets."""
    language_margin: float | None = None
    """Most degradation of any query language that confirmation must rule out, in percent as `margin`; else 3."""
    level: Literal["pair", "language", "overall"] = "pair"
    """What is tested: each pair of query and text language (the next coarser without), query language, or `overall`."""

    def __post_init__(self) -> None:
        _require(0 < self.alpha < 0.5, "alpha", f"must lie between 0 and 0.5, but got {self.alpha}")
        _require_margins(self)
        _require(
            (self.data is None) == bool(self.guards),
            "data",
            "or `guards` must be given, and not both: what must not get worse",
        )
        own = Guard(data="")
        for key in ("margin", "language_margin", "level") if self.guards else ():
            _require(
                getattr(self, key) == getattr(own, key),
                key,
                "cannot stand beside `guards`, each of which has its own; move it there",
            )
        keys = [guard.key for guard in self.guards]
        _require(len(set(keys)) == len(keys), "guards", f"names the same data and metric twice: {keys}")

    @property
    def guarded(self) -> list[Guard]:
        """The guards, also where the short form names only the data."""
        if self.data is None:
            return self.guards
        return [Guard(data=self.data, margin=self.margin, language_margin=self.language_margin, level=self.level)]


def _require_margins(settings: Guard | Constraint) -> None:
    _require(settings.margin > 0, "margin", f"must be positive, in percent, but got {settings.margin}")
    _require(
        settings.language_margin is None or settings.language_margin > 0,
        "language_margin",
        f"must be positive, in percent, but got {settings.language_margin}",
    )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When the sweep ends."""

    __pydantic_config__: ClassVar = STRICT
    trials: int | None = None
    """Trials to run, beside the untouched encoder. Needed, except for a grid, which runs whole unless given."""
    hours: float | None = None
    """Hours after which a run ends; the next run of the sweep goes on from there. No limit unless given."""
    failed_trials: int = 5
    """The sweep fails once more trials than this have crashed."""
    target_gain: float | None = None
    """Gain in percent; no further trial starts once a feasible one reaches it."""
    early_stopping: Literal["asha", "none"] = "none"
    """`asha` stops trials whose predicted edge lags behind. With `sampler: gp` rather run fewer. Not for `whole`."""
    stop_harmful: bool | None = None
    """For `search.candidates: whole`: stop a trial where it is certainly harmful. True there unless given."""
    confirm: int = 10
    """The most candidates that are tested on the confirmation sets, in a fixed order from safest to boldest."""

    def __post_init__(self) -> None:
        _require(self.trials is None or self.trials >= 1, "trials", f"must be at least 1, but got {self.trials}")
        _require(self.hours is None or self.hours > 0, "hours", f"must be positive, but got {self.hours}")
        _require(self.failed_trials >= 0, "failed_trials", f"must not be negative, but got {self.failed_trials}")
        _require(self.confirm >= 1, "confirm", f"must be at least 1, but got {self.confirm}")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets of the cluster, and what happens when a part of that is lost."""

    __pydantic_config__: ClassVar = STRICT
    cpus_per_trial: float = 1.0
    """CPUs for each process of a trial."""
    gpus_per_trial: float | None = None
    """GPUs for each process, 0 to 1; a fraction shares one. 1 where the cluster has or may get a GPU, else 0."""
    concurrent_trials: int | None = None
    """The most trials at a time; as many as fit unless given."""
    workers_per_trial: int = 1
    """Processes of one trial, on one node, each on a GPU of its own where there are any."""
    retries: int = 2
    """Restarts in a row, without progress between them, of a trial whose process or node was lost."""

    def __post_init__(self) -> None:
        _require(self.cpus_per_trial > 0, "cpus_per_trial", f"must be positive, but got {self.cpus_per_trial}")
        gpus = self.gpus_per_trial
        _require(
            gpus is None or 0 <= gpus <= 1,
            "gpus_per_trial",
            f"must lie between 0 and 1 (a trial trains on one GPU or on a share of one), but got {gpus}",
        )
        _require(
            self.concurrent_trials is None or self.concurrent_trials >= 1,
            "concurrent_trials",
            f"must be at least 1, but got {self.concurrent_trials}",
        )
        _require(
            self.workers_per_trial >= 1,
            "workers_per_trial",
            f"must be at least 1, but got {self.workers_per_trial}",
        )
        _require(
            self.workers_per_trial == 1 or gpus in (None, 0, 1),
            "gpus_per_trial",
            f"must be 0 or 1 beside `workers_per_trial: {self.workers_per_trial}`, which gives each process a whole "
            f"GPU, but got {gpus}",
        )
        _require(self.retries >= 0, "retries", f"must not be negative, but got {self.retries}")


@dataclass(frozen=True, kw_only=True)
class Mlflow:
    """Where trials are tracked."""

    __pydantic_config__: ClassVar = STRICT
    uri: str | None = None
    """A tracking server or a database. Else MLFLOW_TRACKING_URI, else a SQLite file in the storage folder."""
    experiment: str = "adiabatic-ray"
    """The experiment in MLflow; one may hold many sweeps."""

    def __post_init__(self) -> None:
        _require(
            self.uri is None or re.match(r"(https?|sqlite|postgresql|mysql|mssql|databricks)\b", self.uri) is not None,
            "uri",
            f"must be a tracking server or a database (http://..., sqlite:///...), but got {self.uri!r}",
        )
        _require(
            self.uri is None or not _holds_password(self.uri),
            "uri",
            "holds a password, and a sweep's settings are stored and tracked; leave it out, and set "
            "MLFLOW_TRACKING_URI where the sweep runs",
        )


LOCAL_STORAGE = "runs"


def default_storage() -> str:
    """Where results go unless the sweep file says so. A cluster sets `ADIABATIC_STORAGE` to what all nodes share."""
    return os.environ.get("ADIABATIC_STORAGE", LOCAL_STORAGE)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A whole sweep file."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    """Names the sweep's folder and what is in MLflow; the file's name unless given."""
    model: Model
    """The encoder whose query side is tuned."""
    train: Train
    """How one trial trains."""
    evaluate: Evaluate
    """What trials are measured on."""
    search: Search
    """What is searched, how, and for what."""
    constraint: Constraint
    """What a trial must not harm."""
    budget: Budget = field(default_factory=Budget)
    """When the sweep ends."""
    resources: Resources = field(default_factory=Resources)
    """What one trial gets of the cluster."""
    storage: str = field(default_factory=default_storage)
    """Folder of results, or its URL in an object store (s3://, gs://). Unless given ADIABATIC_STORAGE, else `runs`."""
    mlflow: Mlflow = field(default_factory=Mlflow)
    """Where trials are tracked."""
    seed: int = 0
    """Of the samples of data, of training and of the search, 0 to 2^32 - 1."""

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name) is not None,
            "name",
            f"must be usable as a folder's name (letters, digits, `_`, `.`, `-`), but got {self.name!r}",
        )
        _require(0 <= self.seed < 2**32, "seed", f"must lie between 0 and 2^32 - 1, but got {self.seed}")
        _require(
            not {"steps", "epochs"} <= self.search.space.keys(),
            "search.space.epochs",
            "cannot stand beside `search.space.steps`: both say how long a trial trains",
        )
        _require(
            not _holds_password(self.storage),
            "storage",
            "holds a password, and a sweep's settings are stored and tracked; leave it out, and set what the storage's "
            "client reads (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) where the sweep runs",
        )
        roles = [("search.objective", self.search.gain.data)]
        key = "constraint.guards" if self.constraint.guards else "constraint.data"
        for key, wanted in [*roles, *((key, guard.data) for guard in self.constraint.guarded)]:
            for section in ("selection", "confirmation"):
                sets = getattr(self.evaluate, section)
                if sets:  # without confirmation sets nothing is confirmed, which is allowed
                    _require(
                        wanted in sets,
                        key,
                        f"names `{wanted}`, which `evaluate.{section}` lacks; it has {listed(sets)}"
                        + nearest(wanted, sets),
                    )
        _require(
            self.search.method == "grid" or self.budget.trials is not None,
            "budget.trials",
            "must be given: how many trials to run",
        )
        for key, choices in self.search.space.items():
            _require(
                key in SEARCHABLE,
                f"search.space.{key}",
                f"is not a hyper-parameter of `train`{nearest(key, SEARCHABLE)}; valid are {listed(SEARCHABLE)}",
            )
            values = choices if isinstance(choices, list) else [choices.low, choices.high]
            for value in values:
                self._check_choice(key, value, interval=not isinstance(choices, list))
        self._check_stopping()
        _require(
            self.search.candidates == "edge" or self.evaluate.exact == EXACT,
            "evaluate.exact",
            "cannot be given when `search.candidates` is `whole`, which measures no edges. Leave it out; "
            "`evaluate.scales` names scales to measure",
        )
        _require(
            self.search.candidates == "edge" or not self.search.soup,
            "search.soup",
            "cannot be true when `search.candidates` is `whole`: displacements are added up at their edges",
        )
        sizes = self.search.space.get("batch_size", [self.train.batch_size])
        smallest = int(min(sizes) if isinstance(sizes, list) else sizes.low)
        _require(
            self.resources.workers_per_trial <= smallest,
            "resources.workers_per_trial",
            f"must not be larger than the smallest batch ({smallest}), which it divides, but got "
            f"{self.resources.workers_per_trial}",
        )

    def _check_stopping(self) -> None:
        """Each way to stop a trial early belongs to what trials are judged by."""
        edges, early = self.search.candidates == "edge", self.budget.early_stopping == "asha"
        _require(
            not (edges and self.budget.stop_harmful),
            "budget.stop_harmful",
            "cannot be true when `search.candidates` is `edge`: a trial that is harmful as a whole may have the best "
            "edge. Leave it out, or set `budget.early_stopping: asha`, or `search.candidates: whole`",
        )
        _require(
            edges or not early,
            "budget.early_stopping",
            "cannot be `asha` when `search.candidates` is `whole`, where the gain of a harmful trial says nothing; use "
            "`budget.stop_harmful`",
        )
        _require(
            not early or self.train.evaluations > 1,
            "budget.early_stopping",
            "is `asha`, which stops trials at an evaluation before the last, but `train.evaluations` is 1",
        )

    @property
    def stops_harmful(self) -> bool:
        """Whether trials are stopped where they are certainly harmful."""
        return self.search.candidates == "whole" and self.budget.stop_harmful is not False

    def _check_choice(self, key: str, value: Scalar, *, interval: bool) -> None:
        """A choice must be a value that `train` itself would accept."""
        path, kinds = f"search.space.{key}", _kinds(key)
        if interval:
            _require(float in kinds or int in kinds, path, "must be a list of choices, not a range")
            if is_whole(key):
                _require(float(value).is_integer(), path, f"must hold whole numbers, but got {value!r}")
                value = int(value)
                step = self.search.space[key].step  # type: ignore[union-attr]
                _require(step is None or step.is_integer(), path, f"must have a whole `step`, but got {step}")
        accepted = (*kinds, int) if float in kinds else kinds
        options = [kind for kind in accepted if isinstance(kind, str)]
        fits = value in options if options else type(value) in accepted
        expected = listed(options) if options else " or ".join(_PLURALS[kind] for kind in kinds)
        _require(fits, path, f"must hold {expected}, but got {value!r}")
        try:
            dataclasses.replace(self.train, **choices({key: value}))
        except InvalidValue as error:
            raise InvalidValue(path, f"holds {value!r}: `train.{error.key}` {error.problem}") from None


_PLURALS = {float: "numbers", int: "whole numbers", bool: "true or false", str: "texts"}


def _kinds(key: str) -> tuple[Any, ...]:
    """The types, or the literal values, that a key of `train` accepts beside `None`."""
    hint = typing.get_type_hints(Train)[key]
    return tuple(kind for kind in typing.get_args(hint) if kind is not type(None)) or (hint,)


def is_whole(key: str) -> bool:
    """Whether a key of `train` takes whole numbers only."""
    return int in _kinds(key)


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint at the name that was probably meant, or an empty text."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else ""


def trial_settings(sweep: Sweep, config: Mapping[str, Scalar]) -> Train:
    """The `train` section with one trial's choices put in."""
    return dataclasses.replace(sweep.train, **choices(config))


def choices(config: Mapping[str, Scalar]) -> dict[str, Any]:
    """What a trial's choices replace in the `train` section.

    Steps and epochs are two ways to say how long: a choice of one takes the other away.
    """
    other = {"steps": "epochs", "epochs": "steps"}
    return {other[key]: None for key in config if key in other} | dict(config)


def resolved(sweep: Sweep) -> dict[str, Any]:
    """The sweep as nested plain values, defaults included: what is stored and tracked."""
    return dataclasses.asdict(sweep)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of resolved settings by their dotted keys, without those that say nothing."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif value not in (None, {}, []):
            yield f"{prefix}{key}", value


# What may change between two runs of one sweep: how long, where and on what it runs, not what a trial is.
FREE_ON_RESUME = ("budget", "resources", "mlflow", "storage")


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every leaf that differs between two resolved sweeps, free keys left out."""
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        if not prefix and key in FREE_ON_RESUME:
            continue
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old} -> {new}")
    return lines
