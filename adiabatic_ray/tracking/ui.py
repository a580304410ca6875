"""Shows a sweep in MLflow's own pages: their addresses, and a server for a store that is a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import mlflow
from mlflow.exceptions import MlflowException

from adiabatic_ray import errors
from adiabatic_ray.tracking import address, runs
from adiabatic_ray.trials.record import ranked
from adiabatic_ray.trials.store import TrialStore

COMPARED = 12  # trials on the page that compares them; it is slow with many more
START_SECONDS = 120.0


@dataclass(frozen=True)
class Pages:
    """The addresses of a sweep's pages."""

    runs: str
    charts: str
    compared: str


def pages(store: TrialStore, uri: str, server: str) -> Pages:
    """The pages of a sweep that is tracked at `uri`, on the server at this address.

    Raises:
        SweepError: the store has no runs of the sweep, or does not answer.
    """
    try:
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name(store.sweep.mlflow.experiment)
        found = runs.of_sweep(client, experiment.experiment_id, store.id) if experiment else []
    except MlflowException as error:
        shown = address.without_password(f"{uri} does not answer ({errors.summary(error)})")
        raise errors.SweepError(f"MLflow's store at {shown}.") from None
    if experiment is None or not found:
        raise errors.SweepError(
            f"{address.without_password(uri)} has no runs of {store.sweep.name}. If the sweep was tracked elsewhere, "
            "set MLFLOW_TRACKING_URI; if it was not tracked yet, run it again, which brings MLflow up to date."
        )
    by_trial = {int(run.data.tags["sweep.trial"]): run.info.run_id for run in found if "sweep.trial" in run.data.tags}
    order = [record.number for record in ranked(store.records.values()) if record.number in by_trial]
    chosen = json.dumps([by_trial[number] for number in order[:COMPARED]], separators=(",", ":"))
    # Sorted by a metric, and not by time, trials are not folded under their parent.
    query = urllib.parse.quote(f"tags.`sweep.id` = '{store.id}' AND tags.`sweep.trial` != ''")
    base = f"{server}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&searchFilter={query}"
    base += f"&orderByKey={urllib.parse.quote('metrics.`candidate/gain`')}&orderByAsc=false"
    experiments = json.dumps([experiment.experiment_id], separators=(",", ":"))
    return Pages(
        runs=base,
        charts=f"{base}&compareRunsMode=CHART",
        compared=f"{server}/#/compare-runs?runs={urllib.parse.quote(chosen)}&experiments={urllib.parse.quote(experiments)}",
    )


@contextlib.contextmanager
def serving(uri: str, port: int | None) -> Iterator[str]:
    """The address of a server for the store at `uri`: its own, or that of one on this machine until the block ends.

    It listens on the loopback address, on `port` or on one that is free.

    Raises:
        SweepError: the server does not start.
    """
    if uri.startswith("http"):
        yield uri.rstrip("/")
        return
    port = port or _free_port()
    server = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, and no shell
            [*command, "--backend-store-uri", uri], stdout=log, stderr=log, start_new_session=True
        )
        try:
            if not _answers(process, server):
                log.seek(0)
                said = (log.read().strip().splitlines() or ["it said nothing"])[-1]
                raise errors.SweepError(f"MLflow's server did not start at {server}: {said}")
            yield server
        finally:
            _end(process)


def _answers(process: subprocess.Popen[bytes], server: str) -> bool:
    """Wait until the server answers; whether it does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server}/health", timeout=5):  # noqa: S310
            return True
        time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server with its workers, which are a group of processes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
