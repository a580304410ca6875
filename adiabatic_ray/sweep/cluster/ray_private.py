"""Calls Ray's private functions, here and nowhere else. Any minor release may change them, so Ray's version is pinned.

Ray has no public function that lists the nodes that an autoscaler may add or the actors of a job, that packs a working
directory, or that names a process.
"""

from __future__ import annotations

import collections
import contextlib
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.runtime_env import packaging

JOB_UPLOAD_LIMIT: int = ray_constants.DASHBOARD_CLIENT_MAX_SIZE  # bytes; a job server refuses what is larger


def actors() -> set[str]:
    """The ids of this job's actors that are scheduled on a node, also while they still start."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    states = ("PENDING_CREATION", "ALIVE")
    placed = (ray._private.state.actors(job_id=job, actor_state_name=state) for state in states)
    return {actor for listed in placed for actor in listed}


def nodes_alive() -> collections.Counter[str]:
    """How many nodes of each kind in the autoscaler's configuration are alive or starting."""
    from ray.autoscaler.v2 import sdk
    from ray.core.generated import autoscaler_pb2

    state = sdk.get_cluster_resource_state(ray._private.worker.global_worker.gcs_client)
    dead = autoscaler_pb2.NodeStatus.DEAD
    return collections.Counter(node.ray_node_type_name for node in state.node_states if node.status != dead)


def node_groups() -> dict[str, tuple[dict[str, float], float]]:
    """The resources and the largest number of each kind of node.

    A managed cluster's autoscaler reports them to Ray. Ray's own autoscaler does not.
    """
    reported = ray._private.state.state.get_cluster_config()
    if reported is None:
        return {}
    return {
        group.name: (dict(group.resources), math.inf if group.max_count < 0 else group.max_count)
        for group in reported.node_group_configs
    }


def kuberay_node_types(name: str, namespace: str) -> Mapping[str, Mapping[str, Any]]:
    """The node types of a RayCluster, read from Kubernetes in the way of Ray's own autoscaler.

    Raises:
        OSError: the service account is missing or has no right to read, or Kubernetes does not answer.
    """
    from ray.autoscaler._private.kuberay import autoscaling_config

    configuration = autoscaling_config.AutoscalingConfigProducer(name, namespace)()
    types: Mapping[str, Mapping[str, Any]] = configuration["available_node_types"]
    return types


@contextlib.contextmanager
def process_title(title: str) -> Iterator[None]:
    """Show a title for this process in Ray's dashboard, in place of the name of the actor's method."""
    before = ray._raylet.getproctitle()
    ray._raylet.setproctitle(title)
    try:
        yield
    finally:
        ray._raylet.setproctitle(before)


def is_client() -> bool:
    """Whether this process is connected through Ray's client."""
    return bool(ray.util.client.ray.is_connected())


def refusal(address: str) -> str:
    """Why a cluster does not take a connection of this process: a wrong token, or none, or it is no Ray's head.

    Empty if it takes it. A process of its own asks, since Ray's C++ code writes each failure into the terminal. It goes
    on for 20 seconds with a token that is refused, so that is not waited for.
    """
    ask = "import sys, ray; ray._raylet.GcsClient(ray._private.services.canonicalize_bootstrap_address(sys.argv[1]))"
    said = ""
    command = [sys.executable, "-c", ask, address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as asking:  # noqa: S603 - our own interpreter, and no shell
        assert asking.stderr is not None
        for line in asking.stderr:
            said = line.partition("Failed to get cluster ID from GCS server: ")[2].strip() or said
            if "InvalidAuthToken" in said:
                asking.kill()
    return said if asking.returncode else ""


def keep_quiet() -> None:
    """Print none of a cluster's messages (a process that died, say), which Ray prints whatever `log_to_driver` says."""
    ray._private.worker._worker_logs_enabled = False


def enable_token_authentication() -> None:
    """Make Ray's client send its token, if there is one. By default it does not."""
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def pack(folder: Path, archive: Path, excludes: list[str]) -> None:
    """Zip a folder, without what `.rayignore`, `.gitignore`, Ray itself and `excludes` exclude."""
    packaging.create_package(
        str(folder),
        archive,
        include_gitignore=True,
        excludes=[*ray_constants.get_runtime_env_default_excludes(), *excludes],
        logger=packaging.default_logger,
    )
