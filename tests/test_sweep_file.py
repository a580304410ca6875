"""Bad sweep files are reported with the file, the key's path, what was expected and the nearest valid key."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adiabatic_ray import config, errors, sweep_file

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bugdet": {}}, r"`bugdet` is not a section \(did you mean `budget`\?\); valid are .*`seed`"),
        (
            {"train.learning_rat": 1e-7},
            r"`train.learning_rat` is not a key of `train` \(did you mean `learning_rate`\?\)",
        ),
        (
            {"evaluate.selection.xnli.langauges": ["en"]},
            r"`evaluate.selection.xnli.langauges` is not a key of `evaluate.selection.xnli` \(did you mean `languages`",
        ),
        ({"model": None}, r"`model` is missing"),
        ({"train.data": None}, r"`train.data` is missing"),
        ({"train.batch_size": "14"}, r"`train.batch_size` must be a whole number, but got '14'"),
        ({"train.batch_size": 14.5}, r"`train.batch_size` must be a whole number, but got 14.5"),
        ({"train.dropout": 1}, r"`train.dropout` must be true or false, but got 1"),
        ({"search.objective": {"data": "questions", "metric": "ndcg@10"}}, r"metric` must be .*ndcg_at_K.*'ndcg@10'"),
        ({"search.objective": 5}, r"`search.objective` must be the name of a selection set, or {data: NAME, .* got 5"),
        ({"search.objective": {"data": "x", "metrik": "map"}}, r"`search.objective.metrik` is not a key of `search.ob"),
        ({"search.objective": {"data": "nowhere"}}, r"`search.objective` names `nowhere`, which `evaluate.selection`"),
        ({"constraint.guards": [{"data": "xnli"}]}, r"`constraint.data` or `guards` must be given, and not both"),
        ({"constraint": {}}, r"`constraint.data` or `guards` must be given, and not both"),
        ({"constraint": {"guards": [{"data": "xnlo"}]}}, r"`constraint.guards` names `xnlo`.*did you mean `xnli`"),
        ({"constraint": {"guards": [{"data": "xnli"}], "margin": 2}}, r"`constraint.margin` cannot stand beside `gua"),
        ({"constraint": {"guards": [{"data": "xnli"}] * 2}}, r"`constraint.guards` names the same data and metric tw"),
        ({"constraint": {"guards": [{"data": "xnli", "margin": 0}]}}, r"margin` must be positive, in percent"),
        ({"train.negatives": {"num_negatives": 0}}, r"`train.negatives.num_negatives` must be at least 1, but got 0"),
        ({"train.negatives": {"range_min": 5, "range_max": 5}}, r"`train.negatives.range_max` must be at least `range"),
        ({"train.negatives": {"margin": 0.1}}, r"`train.negatives.margin` is not a key of `train.negatives`"),
        ({"train.margin": -1.0}, r"`train.margin` must be positive and finite, but got -1.0"),
        ({"train.epochs": 2}, r"`train.steps` or `epochs` must be given, and not both"),
        (
            {"train.loss": "triplet"},
            r"`train.loss` must be `triplet_margin`, `infonce` or `margin_mse`, but got 'triplet'",
        ),
        ({"constraint.level": "pairs"}, r"`constraint.level` must be `pair`, `language` or `overall`, but got 'pairs'"),
        ({"constraint.alpha": 1.5}, r"`constraint.alpha` must lie between 0 and 0.5, but got 1.5"),
        (
            {"search.space.learning_rate": {"low": 1e-6, "high": 1e-8}},
            r"`search.space.learning_rate.low` must be below `high`, but got 1e-06 and 1e-08",
        ),
        (
            {"search.space.learning_rate": {"low": 0.0, "high": 1e-8, "log": True}},
            r"`search.space.learning_rate.low` must be positive on a log scale",
        ),
        (
            {"search.space.learning_rate": {"lo": 1e-8, "high": 1e-6}},
            r"`search.space.learning_rate.lo` is not a key of `search.space.learning_rate` \(did you mean `low`\?\)",
        ),
        ({"search.space.learning_rate": 3}, r"`search.space.learning_rate` must be a list of choices or a range"),
        ({"search.space.freeze": []}, r"`search.space.freeze` must not be an empty choice"),
        ({"search.space.freeze": ["none", "none"]}, r"`search.space.freeze` names a choice twice"),
        (
            {"search.space.freeze": {"low": 1, "high": 2}},
            r"`search.space.freeze` must be a list of choices, not a range",
        ),
        ({"search.space.freeze": [1]}, r"`search.space.freeze` must hold texts, but got 1"),
        (
            {"search.space.batch_size": [8, 0]},
            r"`search.space.batch_size` holds 0: `train.batch_size` must be at least 1",
        ),
        ({"search.space.batch_size": [8.5]}, r"`search.space.batch_size` must hold whole numbers, but got 8.5"),
        ({"search.space.batch_size": {"low": 1.5, "high": 8}}, r"`search.space.batch_size` must hold whole numbers"),
        (
            {"search.space.batch_size": {"low": 2, "high": 8, "step": 0.5}},
            r"`search.space.batch_size` must have a whole `step`, but got 0.5",
        ),
        (
            {"search.space.steps": [8], "search.space.epochs": [1.0]},
            r"`search.space.epochs` cannot stand beside `search.space.steps`",
        ),
        ({"seed": -1}, r"`seed` must lie between 0 and 2\^32 - 1, but got -1"),
        ({"search.space.dropout": [0, 1]}, r"`search.space.dropout` must hold true or false, but got 0"),
        (
            {"search.space.mixed_precision": ["fp8"]},
            r"`search.space.mixed_precision` must hold `no`, `bf16`, `fp16`, but got 'fp8'",
        ),
        (
            {"search.space.lerning_rate": [1e-7]},
            r"`search.space.lerning_rate` is not a hyper-parameter of `train` \(did you mean `learning_rate`\?\)",
        ),
        (
            {"search.method": "grid"},
            r"`search.space.learning_rate` must be a list of values when `search.method` is grid",
        ),
        (
            {"search.objective": "question"},
            r"`search.objective` names `question`, which `evaluate.selection` lacks; it has",
        ),
        ({"constraint.data": "xnl"}, r"`constraint.data` names `xnl`, which .* \(did you mean `xnli`\?\)"),
        ({"budget.trials": None}, r"`budget.trials` must be given: how many trials to run"),
        ({"resources.gpus_per_trial": 2.0}, r"`resources.gpus_per_trial` must lie between 0 and 1"),
        ({"mlflow": {"uri": "file:///tmp/x"}}, r"`mlflow.uri` must be a tracking server or a database"),
        ({"storage": "s3://key:secret@bucket/x"}, r"`storage` holds a password"),
        ({"name": "a/b"}, r"`name` must be usable as a folder's name"),
    ],
)
def test_names_file_key_and_expectation(write_sweep: Write, change: dict[str, Any], message: str) -> None:
    path = write_sweep({"name": "small"} | change) if "name" not in change else None
    if path is None:  # a bad name cannot be the file's too
        path = write_sweep()
        path.write_text(path.read_text().replace('"name": "small"', '"name": "a/b"'))
    with pytest.raises(errors.ConfigError, match=message) as failure:
        sweep_file.load(path)
    assert str(failure.value).startswith(f"{path}: ")


def test_reports_all_problems_at_once(write_sweep: Write) -> None:
    path = write_sweep({"seeed": 1, "train.batch_size": "a", "constraint.level": "x"})
    with pytest.raises(errors.ConfigError) as failure:
        sweep_file.load(path)
    assert len(str(failure.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: {name: a\n", r"line 2, column 1: expected ',' or '}'"),
        ("seed: 1\nseed: 2\n", r"line 2, column 1: found duplicate key \"seed\""),
        ("- 1\n", r"expected a mapping of sections"),
        ("", r"expected a mapping of sections"),
        ("model: !!python/object/apply:os.system ['true']\n", r"could not determine a constructor"),
    ],
)
def test_broken_yaml(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(errors.ConfigError, match=re.escape(str(path)) + ".*" + message):
        sweep_file.load(path)


def test_missing_file_folder_and_encoding(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"no such file"):
        sweep_file.load(tmp_path / "none.yaml")
    with pytest.raises(errors.ConfigError, match=r"is a folder"):
        sweep_file.load(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: Müller".encode("latin-1"))
    with pytest.raises(errors.ConfigError, match=r"is not UTF-8 text"):
        sweep_file.load(latin)


def test_numbers_and_words_as_people_write_them(write_sweep: Write) -> None:
    """YAML 1.1 would read `1e-8` as a text and `no` as false."""
    path = write_sweep()
    path.write_text(path.read_text().replace('"steps": 8', '"steps": 8, "learning_rate": 1e-8, "mixed_precision": no'))
    loaded = sweep_file.load(path)
    assert loaded.train.learning_rate == 1e-8
    assert loaded.train.mixed_precision == "no"


def test_variables(write_sweep: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep({"train.data.path": "${SOME_FOLDER}/train.jsonl"})
    with pytest.raises(errors.ConfigError, match=r"`train.data.path` uses \$\{SOME_FOLDER\}, which is not set"):
        sweep_file.load(path)
    monkeypatch.setenv("SOME_FOLDER", "/there")
    assert sweep_file.load(path).train.data.path == "/there/train.jsonl"
    assert sweep_file.load(path, {"SOME_FOLDER": "/here"}).train.data.path == "/here/train.jsonl"


def test_name_defaults_to_the_file(write_sweep: Write, tmp_path: Path) -> None:
    path = write_sweep()
    unnamed = tmp_path / "unnamed.yaml"
    unnamed.write_text(path.read_text().replace('"name": "small",', ""))
    assert sweep_file.load(unnamed).name == "unnamed"


def test_differences_are_in_what_a_trial_computes(load_sweep: Callable[..., config.Sweep]) -> None:
    sweep, longer = load_sweep(), load_sweep({"budget.trials": 9, "storage": "elsewhere"})
    changed = load_sweep({"train.margin": 0.2})
    assert config.differences(config.resolved(sweep), config.resolved(longer)) == []
    assert config.differences(config.resolved(sweep), config.resolved(changed)) == ["train.margin: 0.1 -> 0.2"]


def test_a_choice_of_epochs_replaces_steps(load_sweep: Callable[..., config.Sweep]) -> None:
    sweep = load_sweep({"search.space.epochs": [0.5, 1]})
    chosen = config.trial_settings(sweep, {"epochs": 0.5, "learning_rate": 1e-7})
    assert (chosen.steps, chosen.epochs, chosen.learning_rate) == (None, 0.5, 1e-7)


@pytest.mark.parametrize("name", ["quickstart", "real_data", "e5_msmarco"])
def test_shipped_sweep_files_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADIABATIC_REAL_DATA", "/data")
    path = Path(__file__).parents[1] / "sweeps" / f"{name}.yaml"
    assert sweep_file.load(path, {"ADIABATIC_POCKET": "/pocket"}).name == name
