"""The rules that KubeRay v1.7 checks beyond its schemas, and those that a sweep needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.k8s.rendering import WITH_RAY, Manifest, changed, cluster_spec, groups, ray_object

MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
UNBOUNDED = 2147483647  # what the API server makes of a `maxReplicas` that is left out


def names(manifest: Manifest) -> Iterator[str]:
    """The name becomes a part of the longer names of pods and services."""
    name, limit = manifest["metadata"]["name"], 47 if manifest["kind"] == "RayJob" else 53
    if len(name) > limit:
        yield f"the name is longer than {limit} characters"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield "the name is no DNS-1035 label"


def deadlines(manifest: Manifest) -> Iterator[str]:
    """A job that hangs is ended, and its cluster is freed."""
    if manifest["kind"] != "RayJob":
        return
    spec = manifest["spec"]
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 0) <= 0:
            yield f"{key} must be given, and be positive"
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "ttlSecondsAfterFinished must not be negative"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shuts_down:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if spec.get("suspend") and not shuts_down:
        yield "suspend needs shutdownAfterJobFinishes"
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit must not be negative"


def submission(manifest: Manifest) -> Iterator[str]:
    """The way to submit a job excludes some of the other settings."""
    if manifest["kind"] != "RayJob":
        return
    spec = manifest["spec"]
    mode, retries = spec.get("submissionMode", "K8sJobMode"), spec.get("backoffLimit", 0)
    if mode not in MODES:
        yield f"submissionMode must be one of {', '.join(MODES)}"
    if mode != "InteractiveMode" and not spec.get("entrypoint"):
        yield "entrypoint must be given"
    if mode == "InteractiveMode" and retries:
        yield "InteractiveMode excludes backoffLimit"
    if spec.get("clusterSelector"):
        excluded = {"backoffLimit": retries, "suspend": spec.get("suspend"), "SidecarMode": mode == "SidecarMode"}
        yield from (f"clusterSelector excludes {key}" for key, given in excluded.items() if given)
    if mode == "SidecarMode":
        for key in ("submitterPodTemplate", "submitterConfig"):
            if key in spec:
                yield f"SidecarMode excludes {key}"
        if cluster_spec(manifest)["headGroupSpec"]["template"]["spec"].get("restartPolicy") != "Never":
            yield "SidecarMode needs a head with restartPolicy Never"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
        yield "runtimeEnvYAML must be a mapping"


def suspended_by_its_job_only(manifest: Manifest) -> Iterator[str]:
    """A RayJob's cluster is suspended through the job."""
    if manifest["kind"] == "RayJob" and "suspend" in cluster_spec(manifest):
        yield "suspend belongs to the RayJob, not to its rayClusterSpec"


def restart_policies(manifest: Manifest) -> Iterator[str]:
    """The autoscaler's second version, Ray's default since 2.47, replaces pods; nothing else may restart them."""
    spec = cluster_spec(manifest)
    if spec.get("enableInTreeAutoscaling") and spec.get("autoscalerOptions", {}).get("version", "v2") == "v2":
        for group in groups(manifest):
            if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
                yield "the autoscaler v2 needs restartPolicy Never"


def scaling(manifest: Manifest) -> Iterator[str]:
    """The number of workers has bounds. The autoscaler sets it where there is one."""
    spec = cluster_spec(manifest)
    workers = spec.get("workerGroupSpecs", [])
    if len({group["groupName"] for group in workers}) < len(workers):
        yield "two worker groups have one name"
    for group in workers:
        low, now, high = group.get("minReplicas", 0), group.get("replicas", 0), group.get("maxReplicas", UNBOUNDED)
        if high == UNBOUNDED:
            yield "maxReplicas must be given: its default is no limit"
        if not 0 <= low <= now <= high:
            yield "replicas must lie between minReplicas and maxReplicas"
        if not spec.get("enableInTreeAutoscaling") and not low == now == high:
            yield "without an autoscaler minReplicas, replicas and maxReplicas must be equal"


def resources_once(manifest: Manifest) -> Iterator[str]:
    """Ray's resources of a group are given in one place."""
    for group in groups(manifest):
        twice = {"num-cpus", "num-gpus", "memory", "resources"} & group.get("rayStartParams", {}).keys()
        if twice and group.get("resources"):
            yield f"{', '.join(sorted(twice))} in rayStartParams stand beside `resources`"


def authentication(manifest: Manifest) -> Iterator[str]:
    """A cluster takes only requests with a token."""
    spec = cluster_spec(manifest)
    options = spec.get("authOptions", {})
    if options.get("mode") != "token":
        yield "authOptions.mode must be token"
    if tuple(map(int, spec.get("rayVersion", "0.0").split(".")[:2])) < (2, 52):
        yield "token authentication needs rayVersion 2.52 or later"
    if manifest["kind"] == "RayJob" and options.get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth is not for a RayJob"


def sweeping(manifest: Manifest) -> Iterator[str]:
    """A sweep can be submitted twice and has time to end. No trial runs on the head."""
    if cluster_spec(manifest)["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
        yield "the head must offer no CPUs to trials"
    if manifest["kind"] != "RayJob":
        return
    spec = manifest["spec"]
    if spec.get("submissionMode") != "HTTPMode" or spec.get("backoffLimit", 0) < 1:
        yield "a sweep is submitted over HTTP, and again on a new cluster where one was lost"
    variables = yaml.safe_load(spec.get("runtimeEnvYAML", "{}")).get("env_vars", {})
    if variables.get("RAY_JOB_STOP_SIGNAL") != "SIGINT" or int(variables.get("RAY_JOB_STOP_WAIT_TIME_S", 0)) < 30:
        yield "a sweep ends on SIGINT, and needs time for it"


RULES: list[Callable[[Manifest], Iterator[str]]] = [
    names,
    deadlines,
    submission,
    suspended_by_its_job_only,
    restart_policies,
    scaling,
    resources_once,
    authentication,
    sweeping,
]


@pytest.mark.parametrize("overlay", WITH_RAY)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_holds(rule: Callable[[Manifest], Iterator[str]], overlay: str) -> None:
    assert list(rule(ray_object(overlay))) == []


SPEC = "spec.rayClusterSpec"
HEAD = f"{SPEC}.headGroupSpec"
WORKER = f"{SPEC}.workerGroupSpecs.0"


@pytest.mark.parametrize(
    ("rule", "changes", "message"),
    [
        (names, {"metadata.name": "s" * 48}, "longer than 47"),
        (names, {"metadata.name": "2nd-sweep"}, "DNS-1035"),
        (deadlines, {"spec.activeDeadlineSeconds": None}, "activeDeadlineSeconds must be given"),
        (deadlines, {"spec.preRunningDeadlineSeconds": -1}, "preRunningDeadlineSeconds must be given, and be positive"),
        (deadlines, {"spec.ttlSecondsAfterFinished": -1}, "must not be negative"),
        (deadlines, {"spec.shutdownAfterJobFinishes": None}, "ttlSecondsAfterFinished needs"),
        (
            deadlines,
            {"spec.shutdownAfterJobFinishes": None, "spec.ttlSecondsAfterFinished": None, "spec.suspend": True},
            "suspend needs",
        ),
        (deadlines, {"spec.backoffLimit": -1}, "backoffLimit must not be negative"),
        (submission, {"spec.submissionMode": "HttpMode"}, "submissionMode must be one of"),
        (submission, {"spec.entrypoint": None}, "entrypoint must be given"),
        (submission, {"spec.submissionMode": "InteractiveMode"}, "InteractiveMode excludes backoffLimit"),
        (submission, {"spec.clusterSelector": {"a": "b"}}, "clusterSelector excludes backoffLimit"),
        (
            submission,
            {"spec.clusterSelector": {"a": "b"}, "spec.backoffLimit": 0, "spec.suspend": True},
            "clusterSelector excludes suspend",
        ),
        (
            submission,
            {"spec.clusterSelector": {"a": "b"}, "spec.backoffLimit": 0, "spec.submissionMode": "SidecarMode"},
            "clusterSelector excludes SidecarMode",
        ),
        (
            submission,
            {"spec.submissionMode": "SidecarMode", "spec.submitterConfig": {"backoffLimit": 1}},
            "SidecarMode excludes submitterConfig",
        ),
        (
            submission,
            {"spec.submissionMode": "SidecarMode", f"{HEAD}.template.spec.restartPolicy": "Always"},
            "SidecarMode needs a head",
        ),
        (submission, {"spec.runtimeEnvYAML": "env_vars"}, "runtimeEnvYAML must be a mapping"),
        (suspended_by_its_job_only, {f"{SPEC}.suspend": True}, "suspend belongs to the RayJob"),
        (restart_policies, {f"{WORKER}.template.spec.restartPolicy": "Always"}, "restartPolicy Never"),
        (
            restart_policies,
            {f"{HEAD}.template.spec.restartPolicy": "OnFailure", f"{SPEC}.autoscalerOptions": {}},
            "restartPolicy Never",
        ),
        (scaling, {f"{WORKER}.maxReplicas": None}, "maxReplicas must be given"),
        (scaling, {f"{WORKER}.minReplicas": 9}, "must lie between"),
        (scaling, {f"{SPEC}.enableInTreeAutoscaling": False}, "must be equal"),
        (resources_once, {f"{HEAD}.resources": {"CPU": "0"}}, "num-cpus in rayStartParams stand"),
        (authentication, {f"{SPEC}.authOptions": None}, "mode must be token"),
        (authentication, {f"{SPEC}.rayVersion": "2.51.0"}, "needs rayVersion 2.52"),
        (authentication, {f"{SPEC}.authOptions.enableK8sTokenAuth": True}, "not for a RayJob"),
        (sweeping, {f"{HEAD}.rayStartParams": {}}, "no CPUs"),
        (sweeping, {"spec.submissionMode": "K8sJobMode"}, "over HTTP"),
        (sweeping, {"spec.runtimeEnvYAML": "{}"}, "ends on SIGINT"),
    ],
)
def test_a_forbidden_combination_is_caught(
    rule: Callable[[Manifest], Iterator[str]], changes: dict[str, Any], message: str
) -> None:
    (error,) = rule(changed(ray_object("gpu/sweep"), changes))
    assert message in error


def test_two_groups_of_one_name_are_caught() -> None:
    cluster = ray_object("gpu/cluster")
    cluster["spec"]["workerGroupSpecs"] *= 2
    assert list(scaling(cluster)) == ["two worker groups have one name"]


@pytest.mark.parametrize("overlay", sorted({overlay.split("/")[0] for overlay in WITH_RAY}))
def test_a_sweep_has_the_cluster_that_the_same_overlay_makes(overlay: str) -> None:
    job, cluster = ray_object(f"{overlay}/sweep"), ray_object(f"{overlay}/cluster")
    cluster["spec"].pop("suspend", None)  # which a job has itself
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_kueue_admits_what_it_can_count() -> None:
    for overlay in ("kueue/sweep", "kueue/cluster"):
        manifest = ray_object(overlay)
        assert manifest["spec"]["suspend"] is True
        assert "kueue.x-k8s.io/queue-name" in manifest["metadata"]["labels"]
        assert not cluster_spec(manifest).get("enableInTreeAutoscaling")


def test_spot_nodes_are_for_trials_only() -> None:
    head, workers = (
        group["template"]["spec"]["affinity"]["nodeAffinity"] for group in groups(ray_object("spot/sweep"))
    )
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    (all_of,) = head[required]["nodeSelectorTerms"]  # expressions of one term must all hold
    any_of = [term["matchExpressions"] for term in workers[required]["nodeSelectorTerms"]]  # one of the terms must
    forbidden = [(e["key"], e["operator"], e["values"]) for e in all_of["matchExpressions"]]
    wanted = [(e["key"], "NotIn", e["values"]) for (e,) in any_of]
    assert forbidden == wanted


def test_a_cpu_cluster_asks_for_no_gpu() -> None:
    for overlay in WITH_RAY:
        on_gpus = "nvidia.com/gpu" in str(ray_object(overlay))
        assert on_gpus != overlay.startswith("cpu/")
