"""The limits of each key, and what the rest of the project asks of a sweep's settings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from adiabatic_ray import config, errors

DATA = config.Source(path="data.jsonl")


def build(section: type[Any], **given: Any) -> Any:
    """A section with what it cannot do without, and the keys given."""
    needed: dict[type[Any], dict[str, Any]] = {
        config.Source: {"path": "data.jsonl"},
        config.Train: {"data": DATA, "steps": 8},
        config.Evaluate: {"selection": {"xnli": DATA}},
        config.Range: {"low": 1.0, "high": 2.0},
        config.Search: {"objective": "xnli", "space": {"margin": [0.1, 0.2]}},
        config.Constraint: {"data": "xnli"},
    }
    return section(**(needed.get(section, {}) | given))


@pytest.mark.parametrize(
    ("section", "key", "allowed", "refused"),
    [
        (config.Lengths, "query", [3, None], [2, -1]),
        (config.Lengths, "passage", [3, None], [2]),
        (config.Source, "path", ["a"], [""]),
        (config.Source, "limit", [1, None], [0, -1]),
        (config.Source, "languages", [["en"], None], [[]]),
        (config.Train, "learning_rate", [1e-12], [0.0, -1e-7, math.inf, math.nan]),
        (config.Train, "margin", [1e-3], [0.0, math.inf]),
        (config.Train, "temperature", [1e-3], [0.0, math.nan]),
        (config.Train, "batch_size", [1], [0]),
        (config.Train, "gradient_accumulation_steps", [1], [0]),
        (config.Train, "evaluations", [1], [0]),
        (config.Train, "warmup_steps", [0], [-1]),
        (config.Train, "weight_decay", [0.0], [-0.1, math.inf]),
        (config.Train, "steps", [1], [0]),
        (config.Train, "seed", [0, 2**32 - 1, None], [-1, 2**32]),
        (config.Train, "freeze", ["none"], ["", "  "]),
        (config.Evaluate, "scales", [[], [0.001, 0.999]], [[0.0], [1.0], [0.5, 0.5]]),
        (config.Evaluate, "selection", [{"a.b-c_1": DATA}], [{}]),
        (config.Range, "low", [-1.0], [2.0, 3.0, -math.inf, math.nan]),
        (config.Range, "step", [0.1], [0.0, -0.1]),
        (config.Constraint, "alpha", [0.001, 0.499], [0.0, 0.5]),
        (config.Constraint, "margin", [0.001], [0.0, -1.0]),
        (config.Budget, "trials", [1, None], [0]),
        (config.Budget, "hours", [0.001, None], [0.0]),
        (config.Budget, "failed_trials", [0], [-1]),
        (config.Budget, "confirm", [1], [0]),
        (config.Resources, "cpus_per_trial", [0.5], [0.0]),
        (config.Resources, "gpus_per_trial", [0.0, 0.25, 1.0, None], [-0.1, 1.1, 2.0]),
        (config.Resources, "concurrent_trials", [1, None], [0]),
        (config.Resources, "workers_per_trial", [1, 2], [0]),
        (config.Resources, "retries", [0], [-1]),
        (config.Mlflow, "uri", ["http://host:5000", "sqlite:///a.db", None], ["runs", "http://me:secret@host"]),
    ],
)
def test_limits(section: type[Any], key: str, allowed: list[Any], refused: list[Any]) -> None:
    for value in allowed:
        assert getattr(build(section, **{key: value}), key) == value
    for value in refused:
        with pytest.raises(config.InvalidValue, match=f"^`{key}` ") as failure:
            build(section, **{key: value})
        assert failure.value.key == key
        assert "secret" not in str(failure.value)


@pytest.mark.parametrize(
    ("section", "given", "message"),
    [
        (config.Train, {"steps": None}, "`steps` or `epochs` must be given, and not both"),
        (config.Train, {"steps": None, "epochs": 0.0}, "`epochs` must be positive, but got 0.0"),
        (config.Train, {"loss": "infonce", "batch_size": 1}, "`batch_size` must be at least 2 for the loss `infonce`"),
        (config.Evaluate, {"selection": {"a/b": DATA}}, "`selection.a/b` is not a usable name"),
        (config.Evaluate, {"confirmation": {"a b": DATA}}, "`confirmation.a b` is not a usable name"),
        (config.Range, {"step": 0.1, "log": True}, "`step` cannot be combined with `log: true`"),
        (config.Search, {"space": {}}, "`space` must name at least one hyper-parameter"),
        (config.Resources, {"workers_per_trial": 2, "gpus_per_trial": 0.5}, "`gpus_per_trial` must be 0 or 1 beside"),
    ],
)
def test_limits_that_depend_on_other_keys(section: type[Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(config.InvalidValue, match=re.escape(message)):
        build(section, **given)


@pytest.mark.parametrize(
    ("space", "batch_size", "fits"),
    [
        ({}, 4, True),
        ({}, 3, False),
        ({"batch_size": [16, 4]}, 3, True),
        ({"batch_size": [16, 3]}, 14, False),
        ({"batch_size": config.Range(low=3, high=16)}, 14, False),
    ],
)
def test_no_process_without_a_row_of_the_smallest_batch(space: dict[str, Any], batch_size: int, fits: bool) -> None:
    def sweep() -> config.Sweep:
        return config.Sweep(
            name="a",
            model=config.Model(name="m"),
            train=build(config.Train, batch_size=batch_size),
            evaluate=build(config.Evaluate),
            search=build(config.Search, space={"margin": [0.1, 0.2]} | space),
            constraint=build(config.Constraint),
            budget=config.Budget(trials=1),
            resources=config.Resources(workers_per_trial=4),
        )

    if fits:
        assert sweep().resources.workers_per_trial == 4
    else:
        with pytest.raises(config.InvalidValue, match=r"must not be larger than the smallest batch \(3\)"):
            sweep()


@pytest.mark.parametrize(
    ("changes", "key", "way_out"),
    [
        ({"search.candidates": "whole", "evaluate.exact": 2}, "evaluate.exact", "names scales to measure"),
        ({"budget.stop_harmful": True}, "budget.stop_harmful", "set `budget.early_stopping: asha`"),
        (
            {"search.candidates": "whole", "budget.early_stopping": "asha"},
            "budget.early_stopping",
            "use `budget.stop_harmful`",
        ),
        (
            {"budget.early_stopping": "asha", "train.evaluations": 1},
            "budget.early_stopping",
            "`train.evaluations` is 1",
        ),
    ],
)
def test_keys_that_contradict_what_trials_are_judged_by(
    load_sweep: Callable[..., config.Sweep], changes: dict[str, Any], key: str, way_out: str
) -> None:
    with pytest.raises(errors.ConfigError, match=re.escape(key)) as failure:
        load_sweep(changes)
    assert way_out in str(failure.value)


def test_differences_of_what_a_trial_is(load_sweep: Callable[..., config.Sweep]) -> None:
    before = config.resolved(load_sweep())
    other = load_sweep({"train.data.limit": 100, "search.space.freeze": ["none"], "evaluate.confirmation": None})
    changed = config.differences(before, config.resolved(other))
    assert changed[0] == "train.data.limit: 200 -> 100"
    assert {line.partition(": ")[0] for line in changed} == {
        "train.data.limit",
        "evaluate.confirmation.questions",
        "evaluate.confirmation.xnli",
        "search.space.freeze",
    }
    # What may change is a section of the file, and no key of that name elsewhere; keys may come and go.
    assert config.differences({"budget": 1, "a": {"budget": 1}}, {"a": {"budget": 2}, "b": 3}) == [
        "a.budget: 1 -> 2",
        "b: None -> 3",
    ]


@pytest.mark.parametrize(
    ("choice", "steps", "epochs"),
    [({"epochs": 0.5}, None, 0.5), ({"steps": 16}, 16, None), ({"margin": 0.2}, 8, None), ({}, 8, None)],
)
def test_a_choice_of_one_length_takes_the_other_away(
    load_sweep: Callable[..., config.Sweep], choice: dict[str, Any], steps: int | None, epochs: float | None
) -> None:
    sweep = load_sweep()
    settings = config.trial_settings(sweep, choice)
    assert (settings.steps, settings.epochs) == (steps, epochs)
    assert settings.margin == choice.get("margin", sweep.train.margin)
    assert settings.data == sweep.train.data


def test_whole_numbers() -> None:
    whole = {key for key in config.SEARCHABLE if config.is_whole(key)}
    assert whole == {"batch_size", "rank", "steps", "warmup_steps", "gradient_accumulation_steps", "seed"}


def test_names_in_messages() -> None:
    assert config.listed(["a", "b"]) == "`a`, `b`"
    assert config.listed([]) == "nothing"
    assert config.nearest("lerning_rate", config.SEARCHABLE) == " (did you mean `learning_rate`?)"
    assert config.nearest("xyz", config.SEARCHABLE) == ""
    assert config.nearest("xyz", []) == ""
