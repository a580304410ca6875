"""A sweep starts without workers, and reads from its RayCluster how many there may be."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adiabatic_ray import config
from adiabatic_ray.sweep.cluster import nodes, resources
from tests.k8s.rendering import WITH_RAY, Manifest, cluster_spec, groups, ray_object

SCALED = [overlay for overlay in WITH_RAY if not overlay.startswith("kueue/")]
WHAT_IT_SEES = """
from adiabatic_ray.sweep.cluster import connection, nodes
with connection.connected():
    print(nodes.now())
"""


@pytest.mark.parametrize("overlay", SCALED)
def test_a_sweep_starts_without_workers_and_plans_on_all_that_may_come(overlay: str) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    manifest = ray_object(overlay)
    (_, workers) = groups(manifest)
    assert workers["minReplicas"] == workers["replicas"] == 0
    node_types = autoscaling_config._generate_available_node_types_from_ray_cr_spec(cluster_spec(manifest))
    kinds = nodes.kinds(node_types)
    cluster = nodes.Cluster([kinds["headgroup"].node], [kinds["trials"]])
    one = config.Resources(cpus_per_trial=2)
    assert resources.plan(one, cluster, trials=100).concurrent == workers["maxReplicas"]


@pytest.mark.parametrize("overlay", SCALED)
def test_the_head_says_which_cluster_it_is_of(overlay: str) -> None:
    head, _ = groups(ray_object(overlay))
    variables = {entry["name"]: entry for entry in head["template"]["spec"]["containers"][0]["env"]}
    fields = {name: variables[name]["valueFrom"]["fieldRef"]["fieldPath"] for name in variables if "CLUSTER_NA" in name}
    assert fields == {
        "RAY_CLUSTER_NAME": "metadata.labels['ray.io/cluster']",
        "RAY_CLUSTER_NAMESPACE": "metadata.namespace",
    }


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[Callable[[Manifest], dict[str, str]]]:
    """Serve a RayCluster as Kubernetes' API does, and return the variables of a pod that reads it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so there is no certificate for a server")
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    command += ["-days", "1", "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    servers: list[http.server.HTTPServer] = []

    def serve(cluster: Manifest) -> dict[str, str]:
        name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/{name}"
                self.send_response(200 if known else 404)
                self.end_headers()
                self.wfile.write(json.dumps(cluster).encode())

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
            "RAY_KUBERAY_CA_CERT_PATH": str(certificate),
            # Without an account's token Ray needs a client certificate.
            "RAY_KUBERAY_CLIENT_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_KEY_PATH": str(key),
            "RAY_CLUSTER_NAME": name,
            "RAY_CLUSTER_NAMESPACE": namespace,
        }

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_head_reads_its_own_cluster(api_server: Callable[[Manifest], dict[str, str]]) -> None:
    assert "and may grow by 8 nodes with 4 CPU and 1 GPU" in seen(api_server(ray_object("gpu/cluster")))


@pytest.mark.slow
def test_a_cluster_that_cannot_be_read_does_not_grow() -> None:
    description = seen({"RAY_CLUSTER_NAME": "any", "RAY_CLUSTER_NAMESPACE": "any"})
    assert description.startswith("the cluster has 1 node with ")
    assert "grow" not in description


def seen(variables: dict[str, str]) -> str:
    """How a process with these variables describes its cluster."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | variables
    command = [sys.executable, "-c", WHAT_IT_SEES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
