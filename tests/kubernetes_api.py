"""Kubernetes' API as a pod sees it, with one RayCluster in it."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def serving(cluster: Mapping[str, Any], folder: Path) -> Iterator[dict[str, str]]:
    """Serve a RayCluster, and yield the variables of a pod that reads it. The server's certificate is in `folder`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so there is no certificate for a server")
    certificate, key = folder / "certificate", folder / "key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    command += ["-days", "1", "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/{name}"
            self.send_response(200 if known else 403)
            self.end_headers()
            self.wfile.write(json.dumps(cluster).encode())

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
            "RAY_KUBERAY_CA_CERT_PATH": str(certificate),
            # Without an account's token Ray needs a client certificate.
            "RAY_KUBERAY_CLIENT_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_KEY_PATH": str(key),
        }
    finally:
        server.shutdown()
        server.server_close()
