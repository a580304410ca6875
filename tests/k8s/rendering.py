"""The manifests of every overlay, as kustomize renders them."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(
    str(file.parent.relative_to(K8S / "overlays")) for file in (K8S / "overlays").rglob("kustomization.yaml")
)
WITH_RAY = [overlay for overlay in OVERLAYS if not overlay.endswith("/platform")]

Manifest = dict[str, Any]


def render(overlay: str) -> list[Manifest]:
    """All objects of an overlay, as a copy that the caller may change."""
    return copy.deepcopy(_render(K8S / "overlays" / overlay))


@functools.cache
def _render(folder: Path) -> list[Manifest]:
    kubectl = Path(sys.executable).with_name("kubectl")  # the one that was installed with the tests
    command = [kubectl if kubectl.exists() else "kubectl", "kustomize", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # kustomize warns about what it will soon refuse
    return list(yaml.safe_load_all(done.stdout))


def ray_object(overlay: str) -> Manifest:
    """The RayJob or the RayCluster of an overlay."""
    (manifest,) = (manifest for manifest in render(overlay) if manifest["apiVersion"] == "ray.io/v1")
    return manifest


def cluster_spec(manifest: Manifest) -> Manifest:
    """The spec of a RayCluster, or of the one that a RayJob makes."""
    spec: Manifest = manifest.get("spec", {})
    return spec.get("rayClusterSpec", {}) if manifest["kind"] == "RayJob" else spec


def groups(manifest: Manifest) -> list[Manifest]:
    """The head group and the worker groups of a Ray object."""
    spec = cluster_spec(manifest)
    return [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]


def pods(manifest: Manifest) -> Iterator[Manifest]:
    """The pod templates of any object."""
    if manifest["kind"] in ("RayJob", "RayCluster"):
        yield from (group["template"] for group in groups(manifest))
    elif "template" in manifest.get("spec", {}):
        yield manifest["spec"]["template"]


def containers(manifest: Manifest) -> Iterator[Manifest]:
    """The containers of any object."""
    for pod in pods(manifest):
        yield from pod["spec"].get("initContainers", [])
        yield from pod["spec"]["containers"]


def changed(manifest: Manifest, changes: dict[str, Any]) -> Manifest:
    """A copy with the values at paths like `spec.ports.0.port` set, or removed where the value is None."""
    result = copy.deepcopy(manifest)
    for path, value in changes.items():
        *parents, last = (int(key) if key.isdecimal() else key for key in path.split("."))
        node: Any = result
        for key in parents:
            node = node[key] if isinstance(key, int) else node.setdefault(key, {})
        if value is None:
            del node[last]
        else:
            node[last] = value
    return result
