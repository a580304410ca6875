"""Every sweep file, volume, secret, label and port that an object refers to exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from adiabatic_ray import sweep_file
from tests.k8s.rendering import K8S, OVERLAYS, ROOT, WITH_RAY, Manifest, containers, pods, ray_object, render

SWEEPS = ROOT / "sweeps"
NAMED = yaml.safe_load((SWEEPS / "kustomization.yaml").read_text())["configMapGenerator"][0]["files"]
PLATFORM = {overlay: "cpu/platform" if overlay.startswith("cpu/") else "gpu/platform" for overlay in WITH_RAY}
SWEEP_OVERLAYS = [overlay for overlay in WITH_RAY if overlay.endswith("/sweep")]


def sweep_files(overlay: str) -> dict[str, str]:
    """The sweep files of an overlay by their names in the pods."""
    (files,) = (m["data"] for m in render(overlay) if m["kind"] == "ConfigMap")
    return dict(files)


def environment(container: Manifest) -> dict[str, str]:
    """The variables of a container whose values are in the manifest."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_the_sweep_files_reach_the_pods_as_they_are(overlay: str) -> None:
    assert sweep_files(overlay) == {Path(file).name: (SWEEPS / file).read_text() for file in NAMED}


@pytest.mark.parametrize("name", [Path(file).name for file in NAMED])
def test_every_sweep_file_loads_in_a_pod(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, worker = containers(ray_object("gpu/sweep"))
    for variable in ("ADIABATIC_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment(head).items():
        monkeypatch.setenv(variable, value)
    file = tmp_path / name
    file.write_text(sweep_files("gpu/sweep")[name])
    sweep = sweep_file.load(file, {"ADIABATIC_POCKET": "/anywhere"})  # which `adiabatic-ray sweep` makes and sets
    for container in (head, worker):
        assert sweep.storage in {mount["mountPath"] for mount in container["volumeMounts"]}
    gpus = float(worker["resources"]["limits"]["nvidia.com/gpu"])
    assert (sweep.resources.gpus_per_trial or 0) <= gpus
    assert sweep.resources.cpus_per_trial <= float(worker["resources"]["limits"]["cpu"])
    assert sweep.mlflow.uri is None  # so that the variable holds


@pytest.mark.parametrize("overlay", SWEEP_OVERLAYS)
def test_the_job_runs_a_sweep_file_that_it_has(overlay: str) -> None:
    job = ray_object(overlay)
    program, command, file = shlex.split(job["spec"]["entrypoint"])
    head, *_ = containers(job)
    (mount,) = (mount["mountPath"] for mount in head["volumeMounts"] if mount["name"] == "sweeps")
    assert (program, command) == ("adiabatic-ray", "sweep")
    assert Path(file).parent == Path(mount)
    assert Path(file).name in sweep_files(overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_volume_is_there(overlay: str) -> None:
    manifests = render(overlay)
    known = {(m["kind"], m["metadata"]["name"]) for m in [*manifests, *render(PLATFORM.get(overlay, overlay))]}
    for pod in (pod for manifest in manifests for pod in pods(manifest)):
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        mounted = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
        assert mounted - {"data"} == set(volumes)  # `data` is made from the StatefulSet's own template
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in known
            else:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in known


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_all_nodes_share_the_folders(overlay: str) -> None:
    head, worker = (
        {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] != "sweeps"}
        for container in containers(ray_object(overlay))
    )
    assert head == worker == {"results": "/results", "models": "/models"}
    for container in containers(ray_object(overlay)):
        assert environment(container)["HF_HOME"].startswith("/models/")
    modes = {
        m["metadata"]["name"]: m["spec"]["accessModes"]
        for m in render(PLATFORM[overlay])
        if m["kind"] == "PersistentVolumeClaim"
    }
    on_one_node = overlay.startswith("cpu/")
    assert modes["results"] == modes["models"] == (["ReadWriteOnce"] if on_one_node else ["ReadWriteMany"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_secret_is_one_that_the_user_is_told_to_make(overlay: str) -> None:
    text = (K8S / "README.md").read_text()
    for container in (container for manifest in render(overlay) for container in containers(manifest)):
        for reference in _values(container, "secretKeyRef"):
            (command,) = re.findall(rf"kubectl create secret generic {reference['name']} .*", text)
            assert f"--from-file={reference['key']}=" in command
        for reference in _values(container, "secretRef"):
            assert f"a secret `{reference['name']}`" in text


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_policies_and_services_find_their_pods(overlay: str) -> None:
    platform = render(PLATFORM[overlay])
    labels: list[dict[str, str]] = []
    ports: dict[str, set[int]] = {}
    for manifest in [*platform, ray_object(overlay)]:
        for number, pod in enumerate(pods(manifest)):
            own = dict(pod["metadata"]["labels"])
            if manifest["apiVersion"] == "ray.io/v1":
                own["ray.io/node-type"] = "worker" if number else "head"  # by the operator
            labels.append(own)
            for container in pod["spec"]["containers"]:
                ports.setdefault(own["app.kubernetes.io/component"], set()).update(
                    port["containerPort"] for port in container.get("ports", [])
                )
    for manifest in platform:
        if manifest["kind"] == "NetworkPolicy":
            for rule in [*manifest["spec"].get("ingress", []), *manifest["spec"].get("egress", [])]:
                for peer in [*rule.get("from", []), *rule.get("to", [])]:
                    if "namespaceSelector" not in peer:
                        assert _selects(peer["podSelector"]["matchLabels"], labels)
            wanted = manifest["spec"]["podSelector"].get("matchLabels", {})
            assert _selects(wanted, labels)
        if manifest["kind"] == "Service":
            selector = manifest["spec"]["selector"]
            assert _selects(selector, labels)
            assert {port["port"] for port in manifest["spec"]["ports"]} == ports[
                selector["app.kubernetes.io/component"]
            ]
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            assert manifest["spec"]["selector"]["matchLabels"] == manifest["spec"]["template"]["metadata"]["labels"]


def test_ray_reports_to_the_server_that_listens() -> None:
    head, worker = containers(ray_object("gpu/sweep"))
    uri = environment(head)["MLFLOW_TRACKING_URI"]
    (server,) = (c for m in render("gpu/platform") if m["kind"] == "Deployment" for c in containers(m))
    (allowed,) = (part for part in server["command"] if part.startswith("--allowed-hosts="))
    assert uri.removeprefix("http://") in allowed.removeprefix("--allowed-hosts=").split(",")
    assert "mlflow" not in str(worker).lower()  # trials have no login


def _selects(wanted: dict[str, str], labels: list[dict[str, str]]) -> bool:
    return any(wanted.items() <= own.items() for own in labels)


def _values(node: Any, key: str) -> list[Manifest]:
    """All values under a key, however deep."""
    if isinstance(node, list):
        return [hit for part in node for hit in _values(part, key)]
    if not isinstance(node, dict):
        return []
    own = [node[key]] if key in node else []
    return own + [hit for part in node.values() for hit in _values(part, key)]
