"""The API server accepts every manifest of every overlay, and the checks catch what it would refuse."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest

from tests.k8s import schemas
from tests.k8s.rendering import OVERLAYS, changed, ray_object, render

UPSTREAM = "https://github.com/ray-project/kuberay"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_is_valid(overlay: str) -> None:
    manifests = render(overlay)
    assert len(manifests) >= 2
    for manifest in manifests:
        assert schemas.errors(manifest) == [], f"{manifest['kind']} {manifest['metadata']['name']}"


WORKER = "spec.workerGroupSpecs.0"


@pytest.mark.parametrize(
    ("overlay", "changes", "message"),
    [
        ("gpu/sweep", {"spec.ttlSecondsAfterFinish": 600}, "'ttlSecondsAfterFinish' was unexpected"),
        ("gpu/sweep", {"spec.backoffLimit": "2"}, r"spec.backoffLimit: '2' is not of type 'integer'"),
        ("gpu/sweep", {"spec.shutdownAfterJobFinishes": "yes"}, "'yes' is not of type 'boolean'"),
        ("gpu/sweep", {"spec.preRunningDeadlineSeconds": 0}, "0 is less than the minimum of 1"),
        ("gpu/sweep", {"spec.rayClusterSpec.headGroupSpec": None}, "'headGroupSpec' is a required property"),
        ("gpu/sweep", {"metadata.lables": {}}, "'lables' was unexpected"),
        ("gpu/cluster", {"spec.rayVersion": 2.6}, "2.6 is not of type 'string'"),
        ("gpu/cluster", {"spec.authOptions.mode": "tokens"}, r"'tokens' is not one of \['disabled', 'token'\]"),
        ("gpu/cluster", {f"{WORKER}.maxReplica": 8}, "'maxReplica' was unexpected"),
        ("gpu/cluster", {f"{WORKER}.template.spec.containers.0.imagePullPolcy": "Always"}, "'imagePullPolcy'"),
        (
            "gpu/cluster",
            {f"{WORKER}.template.spec.containers.0.resources.limits.cpu": "four"},
            "'four' does not match",
        ),
    ],
)
def test_a_wrong_ray_object_is_caught(overlay: str, changes: dict[str, Any], message: str) -> None:
    (error,) = schemas.errors(changed(ray_object(overlay), changes))
    assert re.search(message, error)


@pytest.mark.parametrize(
    ("kind", "name", "changes", "message"),
    [
        ("Deployment", "mlflow", {"spec.template.spec.serviceAcountName": "x"}, "'serviceAcountName' was unexpected"),
        ("Deployment", "mlflow", {"spec.replicas": "1"}, "'1' is not of type 'integer'"),
        ("Service", "mlflow", {"spec.ports.0.port": None}, "'port' is a required property"),
        ("NetworkPolicy", "ray", {"spec.ingres": []}, "'ingres' was unexpected"),
        ("PersistentVolumeClaim", "results", {"spec.accessMode": "ReadWriteMany"}, "'accessMode' was unexpected"),
    ],
)
def test_a_wrong_core_object_is_caught(kind: str, name: str, changes: dict[str, Any], message: str) -> None:
    (manifest,) = (m for m in render("gpu/platform") if (m["kind"], m["metadata"]["name"]) == (kind, name))
    (error,) = schemas.errors(changed(manifest, changes))
    assert re.search(message, error)


def test_the_schemas_are_those_that_their_readme_describes() -> None:
    text = (schemas.CRDS / "README.md").read_text(encoding="utf-8")
    described = dict(re.findall(r"^\| `(\S+\.json)` \| .+ \| `([0-9a-f]{64})` \|$", text, re.MULTILINE))
    files = list(schemas.CRDS.glob("*.json"))
    assert described == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    for file in files:
        assert f"KubeRay]({UPSTREAM}) {json.loads(file.read_text(encoding='utf-8'))['kuberay']} " in text
