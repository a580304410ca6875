"""Nothing listens on a public address, no secret is in a file, and no pod may do more than it needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from tests.k8s.rendering import K8S, OVERLAYS, Manifest, changed, cluster_spec, containers, pods, ray_object, render

UNITS = {"": Decimal(1), "m": Decimal("0.001"), "Mi": Decimal(2**20), "Gi": Decimal(2**30)}


def listens_inside_only(manifest: Manifest) -> Iterator[str]:
    """Only pods of the cluster reach a Service."""
    if manifest["kind"] == "Service" and manifest["spec"].get("type") != "ClusterIP":
        yield "a Service must say ClusterIP"
    if manifest["kind"] in ("Ingress", "Gateway", "HTTPRoute"):
        yield f"{manifest['kind']} opens a way in"
    if manifest["kind"] in ("RayJob", "RayCluster"):
        head = cluster_spec(manifest)["headGroupSpec"]
        if head.get("serviceType") != "ClusterIP" or head.get("enableIngress") or "headService" in head:
            yield "the head's Service must be ClusterIP"
    for pod in pods(manifest):
        if pod["spec"].get("hostNetwork") or "hostPort" in str(pod):
            yield "a pod opens a port of its node"


def secrets_by_reference(manifest: Manifest) -> Iterator[str]:
    """Manifests say where a secret is, never what it is."""
    if manifest["kind"] == "Secret":
        yield "a Secret is in a file"
    for container in containers(manifest):
        for variable in container.get("env", []):
            secret = re.search(r"TOKEN|PASSWORD|SECRET|KEY", variable["name"])
            if secret and "secretKeyRef" not in variable.get("valueFrom", {}):
                yield f"{variable['name']} must come from a secret"
            if re.search(r"//[^/@]*:[^/@]*@", variable.get("value", "")):
                yield f"{variable['name']} holds a password"


def restricted(manifest: Manifest) -> Iterator[str]:
    """The Pod Security Standard `restricted`, which the namespace enforces."""
    for pod in pods(manifest):
        of_pod = pod["spec"].get("securityContext", {})
        if of_pod.get("runAsNonRoot") is not True or of_pod.get("runAsUser", 0) == 0:
            yield "a pod must not run as root"
        if of_pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield "a pod needs the seccomp profile RuntimeDefault"
    own = [container.get("securityContext") for container in containers(manifest)]
    if cluster_spec(manifest).get("enableInTreeAutoscaling"):
        own.append(
            cluster_spec(manifest)["autoscalerOptions"].get("securityContext")
        )  # the operator adds its container
    for context in own:
        if context != {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}:
            yield "a container must drop all capabilities, and gain none"


def tokens_of_the_api_server(manifest: Manifest) -> Iterator[str]:
    """Only the autoscaler, which runs on the head, calls the API server."""
    scales = bool(cluster_spec(manifest).get("enableInTreeAutoscaling"))
    for number, pod in enumerate(pods(manifest)):
        if pod["spec"].get("automountServiceAccountToken", True) != (scales and number == 0):
            yield "a pod has a token of the API server without need, or lacks the one that it needs"


def requests_and_limits(manifest: Manifest) -> Iterator[str]:
    """Every container has requests and limits."""
    for resources in of_containers(manifest, "resources"):
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        for name in ("cpu", "memory"):
            if name not in requests or name not in limits:
                yield f"a container has no request or no limit of {name}"
            elif quantity(requests[name]) > quantity(limits[name]):
                yield f"a container requests more {name} than its limit"
        if requests.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
            yield "GPUs must be equal in requests and limits"


def of_containers(manifest: Manifest, key: str) -> Iterator[Manifest]:
    """One field of every container, the autoscaler's included, which the operator adds to the head."""
    for container in containers(manifest):
        yield container.get(key, {})
    if cluster_spec(manifest).get("enableInTreeAutoscaling"):
        yield cluster_spec(manifest)["autoscalerOptions"].get(key, {})


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", text).groups()  # type: ignore[union-attr]
    return Decimal(number) * UNITS[unit]


RULES: list[Callable[[Manifest], Iterator[str]]] = [
    listens_inside_only,
    secrets_by_reference,
    restricted,
    tokens_of_the_api_server,
    requests_and_limits,
]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_holds(rule: Callable[[Manifest], Iterator[str]], overlay: str) -> None:
    for manifest in render(overlay):
        assert list(rule(manifest)) == [], f"{manifest['kind']} {manifest['metadata']['name']}"


HEAD, WORKER = "spec.headGroupSpec", "spec.workerGroupSpecs.0"
IN_HEAD, IN_WORKER = f"{HEAD}.template.spec", f"{WORKER}.template.spec"


@pytest.mark.parametrize(
    ("rule", "changes", "message"),
    [
        (listens_inside_only, {f"{HEAD}.serviceType": "LoadBalancer"}, "must be ClusterIP"),
        (listens_inside_only, {f"{HEAD}.enableIngress": True}, "must be ClusterIP"),
        (listens_inside_only, {f"{IN_WORKER}.hostNetwork": True}, "port of its node"),
        (
            listens_inside_only,
            {f"{IN_HEAD}.containers.0.ports": [{"containerPort": 8265, "hostPort": 8265}]},
            "port of its node",
        ),
        (
            secrets_by_reference,
            {f"{IN_HEAD}.containers.0.env": [{"name": "MLFLOW_TRACKING_PASSWORD", "value": "x"}]},
            "must come from a secret",
        ),
        (
            secrets_by_reference,
            {f"{IN_HEAD}.containers.0.env": [{"name": "MLFLOW_TRACKING_URI", "value": "http://a:b@mlflow"}]},
            "holds a password",
        ),
        (restricted, {f"{IN_WORKER}.securityContext.runAsUser": 0}, "as root"),
        (restricted, {f"{IN_WORKER}.securityContext.seccompProfile": None}, "seccomp"),
        (restricted, {f"{IN_WORKER}.containers.0.securityContext": None}, "capabilities"),
        (restricted, {"spec.autoscalerOptions.securityContext": None}, "capabilities"),
        (tokens_of_the_api_server, {f"{IN_WORKER}.automountServiceAccountToken": None}, "token of the API server"),
        (requests_and_limits, {f"{IN_WORKER}.containers.0.resources.limits.memory": None}, "no limit of memory"),
        (requests_and_limits, {f"{IN_WORKER}.containers.0.resources.requests.cpu": "4500m"}, "more cpu than"),
        (requests_and_limits, {f"{IN_WORKER}.containers.0.resources.limits": {"cpu": "4", "memory": "16Gi"}}, "GPUs"),
    ],
)
def test_a_violation_is_caught(
    rule: Callable[[Manifest], Iterator[str]], changes: dict[str, Any], message: str
) -> None:
    (error,) = rule(changed(ray_object("gpu/cluster"), changes))
    assert message in error


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"kind": "Secret", "stringData": {"password": "x"}}, "Secret"),
        ({"kind": "Service", "spec": {"type": "NodePort"}}, "ClusterIP"),
        ({"kind": "Ingress", "spec": {}}, "opens a way in"),
    ],
)
def test_an_object_that_must_not_be_is_caught(manifest: Manifest, message: str) -> None:
    (error,) = (error for rule in (listens_inside_only, secrets_by_reference) for error in rule(manifest))
    assert message in error


@pytest.mark.parametrize("overlay", [overlay for overlay in OVERLAYS if overlay.endswith("/platform")])
def test_the_namespace_denies_what_no_policy_allows(overlay: str) -> None:
    manifests = {(m["kind"], m["metadata"]["name"]): m for m in render(overlay)}
    deny = manifests["NetworkPolicy", "default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policies = [m["spec"] for (kind, _), m in manifests.items() if kind == "NetworkPolicy"]
    assert all(rule.get("from") for policy in policies for rule in policy.get("ingress", []))  # none from anywhere
    (namespace,) = (m for (kind, _), m in manifests.items() if kind == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {m["metadata"]["namespace"] for m in manifests.values() if m is not namespace} == {
        namespace["metadata"]["name"]
    }


def test_mlflow_asks_who_calls_and_by_which_name() -> None:
    (deployment,) = (m for m in render("gpu/platform") if m["kind"] == "Deployment")
    (container,) = containers(deployment)
    assert "--app-name=basic-auth" in container["command"]
    (hosts,) = (part for part in container["command"] if part.startswith("--allowed-hosts="))
    assert "*" not in hosts


def looks_secret(text: str) -> list[str]:
    """The lines that assign a value to a secret."""
    name, value = r"(?:password|token|secret|(?:secret|access)[-_]key)", r"['\"]?[a-z0-9+/_-]{8,}['\"]?"
    return re.findall(rf"(?im)^.*{name}\s*[=:]\s*{value}\s*$", text)


@pytest.mark.parametrize(
    "line", ["POSTGRES_PASSWORD=hunter2hunter2", "  secret-key: 'b1946ac92492d234'", "HF_TOKEN: hf_abcdefgh"]
)
def test_a_secret_in_a_file_is_caught(line: str) -> None:
    assert looks_secret(f"a: 1\n{line}\nb: 2\n") == [line]


def test_no_secret_is_in_a_file() -> None:
    files = [path for path in K8S.rglob("*") if path.is_file()]
    assert len(files) > 20
    for file in files:
        assert looks_secret(file.read_text(encoding="utf-8")) == [], file
