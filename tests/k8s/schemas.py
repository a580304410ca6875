"""Strict validation against the schemas of Kubernetes and KubeRay, which are those of the API server."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

KUBERNETES = "1.34"
CRDS = Path(__file__).parent / "crds"


def errors(manifest: dict[str, Any]) -> list[str]:
    """Why the API server would refuse an object, each reason with its path. Unknown fields are refused too."""
    return list(_errors(json.dumps(manifest)))


@functools.cache  # overlays have most objects in common
def _errors(text: str) -> tuple[str, ...]:
    manifest = json.loads(text)
    if manifest["apiVersion"] != "ray.io/v1":
        return _kubernetes_errors(manifest)
    schema = crd(manifest["kind"])
    violations = jsonschema.Draft202012Validator(schema).iter_errors(_with_defaults(schema, manifest))
    # A CRD does not describe `metadata`, which is the same for all objects.
    bare = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]}
    return tuple(f"{error.json_path}: {error.message}" for error in violations) + _kubernetes_errors(bare)


def _kubernetes_errors(manifest: dict[str, Any]) -> tuple[str, ...]:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (f"{error.json_path}: {error.message}",)
    return ()


@functools.cache
def crd(kind: str) -> dict[str, Any]:
    """The schema of a KubeRay object that refuses unknown fields."""
    document = json.loads((CRDS / f"{kind.lower()}s.v1.json").read_text(encoding="utf-8"))
    schema: dict[str, Any] = _strict(document["openAPIV3Schema"])
    return schema


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _strict(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        result.setdefault("additionalProperties", False)
    return result


def _with_defaults(schema: dict[str, Any], value: Any) -> Any:
    """The value with the defaults that the API server fills in before it validates."""
    if isinstance(value, list) and "items" in schema:
        return [_with_defaults(schema["items"], item) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    missing = {key: part["default"] for key, part in properties.items() if "default" in part and key not in value}
    return {key: _with_defaults(properties.get(key, {}), part) for key, part in {**missing, **value}.items()}
