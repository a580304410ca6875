"""The JSON schema of a sweep file, from which editors complete keys, explain them and flag mistakes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
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
