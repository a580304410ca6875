"""A head of a Ray cluster as `ray start` makes one, in a process and a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))  # which need not be on the path


@contextlib.contextmanager
def started(port: int, *options: str, variables: Mapping[str, str]) -> Iterator[Path]:
    """Start a head at `127.0.0.1:port` with these environment variables, and end it and its nodes on exit.

    It may not answer yet. Yields its log, in the folder of the session.
    """
    session = Path(tempfile.mkdtemp(prefix="ray"))  # the paths of sockets must be short
    command = [RAY, "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={session}"]
    # Ray's own choice of the agent's port is taken if another Ray runs, as between tests.
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-agent-listen-port=0", *options]
    said = session / "start.log"
    with said.open("w") as log:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log, start_new_session=True)
    try:
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the nodes that an autoscaler added
        shutil.rmtree(session, ignore_errors=True)
