"""The JSON schema of a sweep file, from which editors complete keys, explain them and flag mistakes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from adiabatic_ray import config

_VARIABLE = r"\$\{\w+\}"


def sweep_file() -> dict[str, Any]:
    """The schema of a sweep file, in JSON Schema's draft 2020-12.

    It has all keys with their types, their defaults, and the lines that explain them in `config.py`. Only `validate`
    checks the limits of numbers and what depends on several keys.
    """
    import pydantic

    schema = pydantic.TypeAdapter(config.Sweep).json_schema()
    explained = _explanations()
    for section, definition in [("Sweep", schema), *schema["$defs"].items()]:
        properties = definition["properties"]
        for field in dataclasses.fields(getattr(config, section)):
            key = {"description": explained[section].get(field.name, ""), **properties[field.name]}
            key.pop("title", None)  # the name again, in capitals
            if field.default_factory is not dataclasses.MISSING:
                key["default"] = _default(field.default_factory)
            _allow_variable(key)
            properties[field.name] = key
    schema["required"].remove("name")  # it is the file's unless given
    schema["$defs"]["Search"]["properties"]["space"]["propertyNames"] = {"enum": list(config.SEARCHABLE)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def keys() -> str:
    """All keys, their defaults and what explains them, as tables in Markdown: one for each section of a sweep file."""
    schema = sweep_file()
    places: dict[str, list[str]] = {"Sweep": []}
    _place(schema, "Sweep", "", places)
    return "\n".join(_table(_section(schema, section), paths) for section, paths in places.items())


def _place(schema: dict[str, Any], section: str, prefix: str, places: dict[str, list[str]]) -> None:
    """Add the paths at which other sections stand in this one."""
    for name, key in _section(schema, section)["properties"].items():
        for inner, ending in _sections(key):
            path = f"{prefix}{name}{ending}"
            places.setdefault(inner, []).append(path)
            _place(schema, inner, f"{path}.", places)


def _section(schema: dict[str, Any], section: str) -> dict[str, Any]:
    found: dict[str, Any] = schema if section == "Sweep" else schema["$defs"][section]
    return found


def _sections(key: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The sections that a key may hold, and what follows the key in their paths."""
    if "$ref" in key:
        yield key["$ref"].rpartition("/")[2], ""
    for kind in key.get("anyOf", []):
        yield from _sections(kind)
    for inner, ending in (("additionalProperties", ".NAME"), ("items", "[]")):
        if isinstance(key.get(inner), dict):
            yield from ((section, ending + rest) for section, rest in _sections(key[inner]))


def _table(section: dict[str, Any], paths: list[str]) -> str:
    rows = [
        f"| `{name}` | {_shown_default(name, key, section)} | {key['description']}{_choices(key)} |"
        for name, key in section["properties"].items()
    ]
    where = ", ".join(f"`{path}`" for path in paths) or "The file"
    return "\n".join([f"**{where}**", "", "| key | default | |", "|---|---|---|", *rows, ""])


def _shown_default(name: str, key: dict[str, Any], section: dict[str, Any]) -> str:
    if name in section.get("required", []):
        return "needed"
    default = key.get("default")
    return "" if default in (None, {}, []) else f"`{json.dumps(default)}`"


def _choices(key: dict[str, Any]) -> str:
    """The words that a key may be."""
    words = [
        word for kind in key.get("anyOf", []) for inner in kind.get("anyOf", [kind]) for word in inner.get("enum", [])
    ]
    return f" One of {config.listed(words)}." if words else ""


def _explanations() -> dict[str, dict[str, str]]:
    """The line under each field in `config.py`, by section and field.

    pydantic can read them too (`use_attribute_docstrings`), at 0.1 s for every sweep file that is loaded.
    """
    classes = [node for node in ast.parse(inspect.getsource(config)).body if isinstance(node, ast.ClassDef)]
    return {
        section.name: {
            ast.unparse(field.target): ast.literal_eval(line.value)
            for field, line in pairwise(section.body)
            if isinstance(field, ast.AnnAssign) and isinstance(line, ast.Expr)
        }
        for section in classes
    }


def _default(factory: Any) -> Any:
    if factory is config.default_storage:
        return config.LOCAL_STORAGE  # the schema does not depend on where it is made
    return {} if dataclasses.is_dataclass(factory) else factory()


def _allow_variable(key: dict[str, Any]) -> None:
    """Let `${NAME}` stand where one of a few words is expected."""
    for kind in key.get("anyOf", [key]):
        if "enum" in kind:
            kind["anyOf"] = [{"enum": kind.pop("enum")}, {"pattern": _VARIABLE}]
