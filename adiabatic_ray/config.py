"""The schema of a sweep file and its checks.

It is plain dataclasses, so that trainers and evaluators need nothing but the standard library to be configured.
`sweep_file.load` reads a YAML file into a `Sweep`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Scalar = float | int | str | bool

Column = Literal["query", "positive", "negative", "premise", "hypothesis", "label", "language", "id"]

# pydantic reads this from the dataclasses when a file is loaded.
STRICT = {"extra": "forbid"}


class InvalidValue(ValueError):
    """A value outside of what its key allows; `key` is relative to the section that raised it."""

    def __init__(self, key: str, problem: str) -> None:
        self.key, self.problem = key, problem
        super().__init__(f"`{key}` {problem}")


def _require(holds: bool, key: str, problem: str) -> None:
    if not holds:
        raise InvalidValue(key, problem)


def _holds_password(address: str) -> bool:
    return re.search(r"//[^/@]*:[^/@]*@", address) is not None


@dataclass(frozen=True, kw_only=True)
class Sides:
    """One value for queries and one for passages; `None` leaves it to the model."""

    __pydantic_config__: ClassVar = STRICT
    query: str | None = None
    passage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Maximum lengths in tokens; `None` leaves it to the model."""

    __pydantic_config__: ClassVar = STRICT
    query: int | None = None
    passage: int | None = None

    def __post_init__(self) -> None:
        for key in ("query", "passage"):
            value = getattr(self, key)
            _require(value is None or value >= 3, key, f"must be at least 3 tokens, but got {value}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """The untouched encoder: a hub id or a folder in sentence-transformers' or transformers' layout."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    revision: str | None = None
    prompts: Sides = field(default_factory=Sides)
    max_length: Lengths = field(default_factory=Lengths)
    pooling: Literal["mean", "cls", "max", "lasttoken"] | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set lies: a hub id, a folder, or a parquet, JSONL, TSV or CSV file.

    What kind of set it is follows from its columns: `query, positive, negative` (triplets) or `premise, hypothesis,
    label` (XNLI); a folder with corpus, queries and judgements is BEIR.
    """

    __pydantic_config__: ClassVar = STRICT
    path: str
    name: str | None = None  # the hub's word for a subset of a data set
    revision: str | None = None
    split: str | None = None  # in the hub's notation, so `train[:2000]` and `dev[50%:]` work for local files too
    columns: dict[Column, str] = field(default_factory=dict)
    languages: list[str] | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        _require(bool(self.path), "path", "must not be empty")
        _require(self.limit is None or self.limit > 0, "limit", f"must be positive, but got {self.limit}")
        _require(self.languages is None or len(self.languages) > 0, "languages", "must not be an empty list")


@dataclass(frozen=True, kw_only=True)
class Train:
    """How one trial trains. Every scalar here may be searched over instead of fixed."""

    __pydantic_config__: ClassVar = STRICT
    data: Source
    loss: Literal["triplet_margin", "infonce"] = "triplet_margin"
    learning_rate: float = 2e-8
    batch_size: int = 14
    margin: float = 0.1
    temperature: float = 0.05
    freeze: str = "embeddings"
    steps: int | None = None
    epochs: float | None = None
    warmup_steps: int = 0
    weight_decay: float = 0.0
    gradient_accumulation_steps: int = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    dropout: bool = False
    seed: int | None = None  # of the batches and of dropout; `None` is the sweep's
    evaluations: int = 2

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
        _require(bool(self.freeze.strip()), "freeze", "must not be empty; write `none` to freeze nothing")


SEARCHABLE = tuple(f.name for f in dataclasses.fields(Train) if f.name not in ("data", "evaluations"))


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The data sets on which trials are selected, and those on which the best are confirmed."""

    __pydantic_config__: ClassVar = STRICT
    selection: dict[str, Source]
    confirmation: dict[str, Source] = field(default_factory=dict)
    # A trained displacement is also measured scaled down by each of these, which costs no training; empty: it is not.
    scales: list[float] = field(default_factory=lambda: [0.25, 0.5, 0.75])

    def __post_init__(self) -> None:
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
    high: float
    log: bool = False
    step: float | None = None

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
class Search:
    """What is searched, how, and for what."""

    __pydantic_config__: ClassVar = STRICT
    objective: str
    space: dict[str, Range | list[Scalar]]
    method: Literal["optuna", "grid"] = "optuna"
    sampler: Literal["tpe", "gp", "random"] = "tpe"

    def __post_init__(self) -> None:
        _require(len(self.space) > 0, "space", "must name at least one hyper-parameter")
        for key, choices in self.space.items():
            if isinstance(choices, list):
                _require(len(choices) > 0, f"space.{key}", "must not be an empty choice")
                distinct = {(type(choice), choice) for choice in choices}
                _require(len(distinct) == len(choices), f"space.{key}", f"names a choice twice: {choices}")
            else:
                _require(self.method != "grid", f"space.{key}", "must be a list of values when `search.method` is grid")


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """No degradation, as defined in `evaluate.significance`."""

    __pydantic_config__: ClassVar = STRICT
    data: str
    alpha: float = 0.05
    margin: float = 1.0  # percent of the untouched encoder's discordant triplets
    level: Literal["pair", "language", "overall"] = "pair"

    def __post_init__(self) -> None:
        _require(0 < self.alpha < 0.5, "alpha", f"must lie between 0 and 0.5, but got {self.alpha}")
        _require(self.margin > 0, "margin", f"must be positive, in percent, but got {self.margin}")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When the sweep ends."""

    __pydantic_config__: ClassVar = STRICT
    trials: int | None = None  # for a grid, `None` is the whole grid
    hours: float | None = None
    failed_trials: int = 5
    target_gain: float | None = None  # percent; the sweep ends once a feasible trial reaches it
    stop_harmful: bool = True
    confirm: int = 5

    def __post_init__(self) -> None:
        _require(self.trials is None or self.trials >= 1, "trials", f"must be at least 1, but got {self.trials}")
        _require(self.hours is None or self.hours > 0, "hours", f"must be positive, but got {self.hours}")
        _require(self.failed_trials >= 0, "failed_trials", f"must not be negative, but got {self.failed_trials}")
        _require(self.confirm >= 1, "confirm", f"must be at least 1, but got {self.confirm}")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial is given. `None` stands for what the cluster makes natural."""

    __pydantic_config__: ClassVar = STRICT
    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None  # 1 where the cluster has a GPU or may get one, else 0; a fraction shares one
    concurrent_trials: int | None = None  # as many as fit
    workers_per_trial: int = 1  # processes of one trial on one node; each has `cpus_per_trial`, and a GPU of its own
    retries: int = 2  # in a row, of a trial whose process or node was lost and that came no further

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
    uri: str | None = None  # else MLFLOW_TRACKING_URI, else a SQLite store in the storage folder
    experiment: str = "adiabatic-ray"

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


def default_storage() -> str:
    """Where results go unless the sweep file says so: a cluster sets `ADIABATIC_STORAGE` to what all nodes share."""
    return os.environ.get("ADIABATIC_STORAGE", "runs")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A whole sweep file."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    model: Model
    train: Train
    evaluate: Evaluate
    search: Search
    constraint: Constraint
    budget: Budget = field(default_factory=Budget)
    resources: Resources = field(default_factory=Resources)
    storage: str = field(default_factory=default_storage)  # a folder, or the URL of an object store (s3://, gs://)
    mlflow: Mlflow = field(default_factory=Mlflow)
    seed: int = 0

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
        for key, wanted in (("search.objective", self.search.objective), ("constraint.data", self.constraint.data)):
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
        sizes = self.search.space.get("batch_size", [self.train.batch_size])
        smallest = int(min(sizes) if isinstance(sizes, list) else sizes.low)
        _require(
            self.resources.workers_per_trial <= smallest,
            "resources.workers_per_trial",
            f"must not be larger than the smallest batch ({smallest}), which it divides, but got "
            f"{self.resources.workers_per_trial}",
        )

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
