"""The image has the versions that the tests run with, and hadolint accepts its Dockerfile."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.k8s import schemas
from tests.k8s.rendering import K8S, OVERLAYS, ROOT, WITH_RAY, cluster_spec, containers, ray_object, render

DOCKERFILE = K8S / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().splitlines()[1:]
)
VARIANTS = ("cuda", "cpu")


def lint(text: str) -> list[str]:
    """The codes of hadolint's findings."""
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [str(hadolint), "--no-color", "--format", "json", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    return [finding["code"] for finding in json.loads(done.stdout)]


def unpinned(text: str) -> list[str]:
    """The packages that a Dockerfile installs with pip, but not in the tested version."""
    names = []
    for command in re.findall(r"pip install ((?:[^&\n]|\\\n)+)", text.replace("\\\n", " ")):
        options = re.sub(r"--(constraint|index-url|extra-index-url) \S+|--\S+", "", command)
        packages = [re.sub(r"\[.*", "", package.strip('"')).lower() for package in options.split()]
        names += [name for name in packages if name != "." and name not in CONSTRAINTS]
        if "--constraint constraints.txt" not in command:
            names += packages
    return names


def test_hadolint_finds_nothing() -> None:
    assert lint(DOCKERFILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("python:${PYTHON}-slim-bookworm", "python", "DL3006"),
        (" --no-cache-dir", "", "DL3042"),
        ("USER 1000:1000", "USER root", "DL3002"),
        ("# hadolint ignore=DL3008\n", "", "DL3008"),
        (" --no-install-recommends", "", "DL3015"),
    ],
)
def test_a_lapse_is_caught_by_hadolint(old: str, new: str, code: str) -> None:
    text = DOCKERFILE.read_text()
    assert old in text
    assert code in lint(text.replace(old, new))


def test_every_package_is_pinned_to_the_tested_version() -> None:
    text = DOCKERFILE.read_text()
    assert unpinned(text) == []
    assert unpinned(text.replace(" boto3", " boto4")) == ["boto4"]
    assert "torch" in unpinned(text.replace("--constraint constraints.txt", ""))


def test_python_is_the_tested_one() -> None:
    (version,) = re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE.read_text(), re.M)
    assert version == PROJECT["tool"]["mypy"]["python_version"]
    assert PROJECT["project"]["requires-python"].startswith(f">={version}")


def test_what_is_copied_is_there() -> None:
    kept = re.findall(r"^!(.+)$", (K8S / "Dockerfile.dockerignore").read_text(), re.M)
    copied = [
        source for line in re.findall(r"^COPY (.+)$", DOCKERFILE.read_text(), re.M) for source in line.split()[:-1]
    ]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_the_images_of_this_version(overlay: str) -> None:
    version = PROJECT["project"]["version"]
    variants = ("cpu",) if overlay.startswith("cpu/") or overlay.endswith("/platform") else ("cuda",)
    allowed = {f"registry.example.com/adiabatic-ray:{version}-{variant}" for variant in variants}
    images = {container["image"] for manifest in render(overlay) for container in containers(manifest)}
    assert images <= allowed | {"postgres:15.18-bookworm"}
    assert images & allowed


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_ray_is_the_tested_version(overlay: str) -> None:
    assert cluster_spec(ray_object(overlay))["rayVersion"] == CONSTRAINTS["ray"]


def test_the_documented_versions_are_these() -> None:
    text = (K8S / "README.md").read_text()
    operator = json.loads((schemas.CRDS / "rayjobs.v1.json").read_text())["kuberay"]
    assert f"--version {operator.removeprefix('v')} " in text
    assert f"adiabatic-ray:{PROJECT['project']['version']}-$variant" in text
    assert f"for variant in {' '.join(VARIANTS)};" in text
    assert f"Kubernetes {schemas.KUBERNETES}" in text
    for variant in VARIANTS:
        assert f"{variant}) index=" in DOCKERFILE.read_text()
