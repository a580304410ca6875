"""Reads a sweep file strictly: everything that is wrong with it is reported at once, before anything starts."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adiabatic_ray import config, errors

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def load(path: str | Path, variables: Mapping[str, str] | None = None) -> config.Sweep:
    """Read and check a sweep file.

    `${NAME}` in a text is replaced by the value of NAME in `variables`, or else in the environment. A sweep without a
    `name` has the name of its file.

    Raises:
        ConfigError: the file cannot be used. The message has one line for each problem, with the file, the key's path,
            what was expected, and the nearest valid key.
    """
    path = Path(path)
    raw = _read_yaml(path)
    if not isinstance(raw, dict):
        raise errors.ConfigError(
            f"{path}: expected a mapping of sections ({config.listed(_keys(config.Sweep))}), but got {raw!r}."
        )
    raw.setdefault("name", path.stem)
    return _build(_substitute(raw, path, os.environ | (variables or {})), path)


def variables(path: Path) -> set[str]:
    """The names of the environment variables that a sweep file uses as `${NAME}`.

    Raises:
        ConfigError: the file cannot be read.
    """
    return set(_VARIABLE.findall(json.dumps(_read_yaml(path), default=str)))


def rebuild(settings: Mapping[str, Any], path: Path) -> config.Sweep:
    """Build a sweep from the settings that `config.resolved` gave and that were stored in the file `path`.

    Raises:
        ConfigError: the settings were stored by another version, or are damaged.
    """
    return _build(dict(settings), path)


def _read_yaml(path: Path) -> Any:
    from ruamel.yaml import YAML  # reads YAML 1.2, in which `1e-8` is a number and `no` a text; rejects repeated keys
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise errors.ConfigError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise errors.ConfigError(f"{path}: is a folder; expected a sweep file.") from None
    except UnicodeDecodeError as error:
        raise errors.ConfigError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise errors.ConfigError(f"{path}:{where} {error.problem or error.context}.") from None
    except YAMLError as error:
        raise errors.ConfigError(f"{path}: {error}.") from None


def _substitute(value: Any, path: Path, variables: Mapping[str, str], key: str = "") -> Any:
    """Replace `${NAME}` in every text."""
    if isinstance(value, dict):
        return {k: _substitute(v, path, variables, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [_substitute(v, path, variables, f"{key}.{i}") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name not in variables:
            raise errors.ConfigError(
                f"{path}: `{key}` uses ${{{name}}}, which is not set. Set it first: export {name}=..."
            )
        return variables[name]

    return _VARIABLE.sub(replace, value)


def _build(raw: dict[str, Any], path: Path) -> config.Sweep:
    import pydantic

    try:
        # In JSON mode pydantic is strict about types and still builds dataclasses from mappings.
        return pydantic.TypeAdapter(config.Sweep).validate_json(json.dumps(raw, default=str), strict=True)
    except pydantic.ValidationError as failure:
        explained = (_explain(error, raw) for error in failure.errors(include_url=False))
        lines = dict.fromkeys(line for line in explained if line)
        raise errors.ConfigError("\n".join(f"{path}: {line}" for line in lines)) from None


_EXPECTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
}


# Keys that take a section or something else: the section's class, the other type, and what is expected.
_SPACE = ("Range", list, "a list of choices or a range such as {low: 1e-8, high: 1e-6, log: true}")
_UNIONS = {"search.objective": ("Objective", str, "the name of a selection set, or {data: NAME, metric: ndcg_at_10}")}


def _explain(error: Any, raw: Any) -> str | None:
    """Describe one of pydantic's errors in a line. `None` if it is about a branch of a union that was not meant."""
    keys: list[str] = []
    node = raw
    for part in error["loc"]:
        branch, other, _ = _UNIONS.get(".".join(keys), _SPACE)
        if part == branch or str(part).startswith("list[") or part in ("float", "int", "str", "bool"):
            # In a location pydantic also names the branch of a union, or of a list's scalars.
            if (part == branch) == isinstance(node, other):
                return None
            continue
        keys.append(str(part))
        node = node.get(part) if isinstance(node, dict) else node[part] if isinstance(node, list) else None
    dotted, kind = ".".join(keys), error["type"]
    if kind == "value_error":
        problem = error["ctx"]["error"]
        return f"`{'.'.join([*keys, problem.key])}` {problem.problem}."
    if kind == "missing":
        return f"`{dotted}` is missing."
    if kind == "unexpected_keyword_argument":
        valid = _keys(_section(error["loc"][:-1]))
        where = f"a key of `{'.'.join(keys[:-1])}`" if keys[:-1] else "a section"
        return f"`{dotted}` is not {where}{config.nearest(keys[-1], valid)}; valid are {config.listed(valid)}."
    expected = _EXPECTED.get(kind, error["msg"])
    if kind == "literal_error":
        expected = error["ctx"]["expected"].replace("'", "`")
    branch, _, described = _UNIONS.get(dotted, _SPACE)
    if branch in error["loc"] and kind == "dataclass_type":
        expected = described
    return f"`{dotted}` must be {expected}, but got {node!r}."


def _keys(section: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(section)]


def _section(location: Iterable[str | int]) -> Any:
    """The dataclass of the section at a location in the file."""
    section: Any = config.Sweep
    for part in location:
        if part in ("Range", "Objective"):
            return getattr(config, str(part))
        hint = typing.get_type_hints(section).get(str(part))
        inner = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
        # A key that is not a field is a name from the user, of a data set say, and leads to no other section.
        section = inner[0] if inner else section
    return section
