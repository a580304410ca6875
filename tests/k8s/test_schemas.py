"""Every manifest of every overlay is what the API server accepts, and what it does not accept is caught."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.k8s import schemas
from tests.k8s.rendering import OVERLAYS, ROOT, changed, ray_object, render

SHARED = ROOT.parent / "shared" / "crds"


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


@pytest.mark.skipif(not SHARED.is_dir(), reason="the schemas are not beside this repository")
@pytest.mark.parametrize("name", ["rayjobs.v1.json", "rayclusters.v1.json"])
def test_the_schemas_are_the_ones_that_were_handed_over(name: str) -> None:
    ours, theirs = (json.loads((folder / name).read_text()) for folder in (schemas.CRDS, SHARED))
    assert ours == theirs
