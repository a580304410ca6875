"""What editors are told of a sweep file is what `validate` checks, and what the README says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from adiabatic_ray import cli, config, errors, schema, sweep_file

ROOT = Path(__file__).parents[1]
COPY = ROOT / "adiabatic_ray" / "sweep.schema.json"
SHIPPED = sorted(path for path in (ROOT / "sweeps").rglob("*.yaml") if path.name != "kustomization.yaml")
SECTIONS = [kind for kind in vars(config).values() if dataclasses.is_dataclass(kind)]
SCHEMA = schema.sweep_file()


def problems(path: Path) -> list[str]:
    """What a validator of JSON schemas flags in a sweep file."""
    content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(content)]


def properties(section: str) -> dict[str, Any]:
    found: dict[str, Any] = (SCHEMA if section == "Sweep" else SCHEMA["$defs"][section])["properties"]
    return found


def test_it_is_a_schema_and_the_copy_equals_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert cli.main(["schema"]) == 0
    assert capsys.readouterr().out == COPY.read_text(encoding="utf-8"), (
        "config.py has changed since the copy was made; renew it: "
        "adiabatic-ray schema > adiabatic_ray/sweep.schema.json"
    )


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_is_explained(section: type[Any]) -> None:
    fields = dataclasses.fields(section)
    assert list(properties(section.__name__)) == [field.name for field in fields]
    for field in fields:
        key = properties(section.__name__)[field.name]
        assert re.fullmatch(r"\S.+\.", key["description"]), f"{field.name} has no line that explains it"
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        assert ("default" in key) == optional, field.name


def test_defaults_are_those_of_a_sweep(load_sweep: Callable[..., config.Sweep]) -> None:
    sweep = load_sweep({"resources": None, "train.evaluations": None})
    for section in (sweep.train, sweep.budget, sweep.resources, sweep.mlflow, sweep.evaluate, sweep.search):
        for name, key in properties(type(section).__name__).items():
            if "default" in key and name not in ("steps", "trials", "confirmation"):  # which the small sweep gives
                assert getattr(section, name) == key["default"], name


def test_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADIABATIC_STORAGE", "s3://bucket/sweeps")
    assert schema.sweep_file() == SCHEMA
    assert SCHEMA["properties"]["storage"]["default"] == "runs"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweep_files_are_valid_and_name_the_copy(path: Path) -> None:
    assert problems(path) == []
    comment = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text(encoding="utf-8"))
    assert comment is not None
    assert (path.parent / comment[1]).resolve() == COPY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bugdet": {}}, r"'bugdet' was unexpected"),
        ({"train.learning_rat": 1e-7}, r"'learning_rat' was unexpected"),
        ({"model.prompts": {"querry": "query: "}}, r"'querry' was unexpected"),
        ({"evaluate.selection.xnli.langauges": ["en"]}, r"'langauges' was unexpected"),
        ({"train.data.columns": {"querry": "q"}}, r"'querry' is not one of \['query', "),
        ({"search.space.lerning_rate": [1e-7]}, r"'lerning_rate' is not one of \['loss', "),
        ({"search.space.evaluations": [1, 2]}, r"'evaluations' is not one of"),
        ({"search.space.learning_rate": {"lo": 1e-8, "high": 1e-6}}, r"is not valid under any of the given schemas"),
        ({"search.space.learning_rate": 3}, r"3 is not valid under any of the given schemas"),
        ({"model": None}, r"'model' is a required property"),
        ({"train.data.path": None}, r"'path' is a required property"),
        ({"train.batch_size": "14"}, r"'14' is not of type 'integer'"),
        ({"train.batch_size": 14.5}, r"14.5 is not of type 'integer'"),
        ({"train.learning_rate": "${RATE}"}, r"'\$\{RATE\}' is not of type 'number'"),
        ({"train.dropout": 1}, r"1 is not of type 'boolean'"),
        ({"evaluate.scales": 0.5}, r"0.5 is not of type 'array'"),
        ({"train.loss": "triplet"}, r"'triplet' is not valid under any of the given schemas"),
        ({"model.pooling": "average"}, r"'average' is not valid under any of the given schemas"),
    ],
)
def test_a_typo_is_flagged_by_a_validator_as_by_validate(
    write_sweep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("RATE", "1e-7")
    path = write_sweep(change)
    assert re.search(message, "\n".join(problems(path)))
    with pytest.raises(errors.ConfigError):
        sweep_file.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"train.learning_rate": 1, "train.margin": 1},  # whole numbers stand for others
        {"train.loss": "${WORD}", "model.pooling": None},
        {"evaluate.selection.questions.split": None, "budget.hours": 0.5, "seed": 7},
        {"search.space.learning_rate": [1e-8, 1], "search.space.dropout": [True, False], "search.method": "grid"},
    ],
)
def test_what_loads_is_not_flagged(
    write_sweep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.setenv("WORD", "infonce")
    path = write_sweep(change)
    path.write_text(path.read_text().replace('"name": "small",', ""))  # it is the file's
    sweep_file.load(path)
    assert problems(path) == []


def test_the_guide_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (ROOT / "sweeps" / "README.md").read_text(encoding="utf-8")
    table = guide.partition("<!-- keys -->\n\n")[2].partition("<!-- end of keys -->")[0]
    assert cli.main(["schema", "--keys"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == table.strip(), (
        "config.py has changed; put `adiabatic-ray schema --keys` between the marks"
    )
    sections = [SCHEMA, *SCHEMA["$defs"].values()]
    assert printed.count("\n| `") == sum(len(section["properties"]) for section in sections)
