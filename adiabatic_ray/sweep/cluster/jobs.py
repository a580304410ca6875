"""Runs sweeps as jobs of a Ray cluster, and finds these jobs by the sweep's name.

A submission does what `ray job submit --working-dir . -- python -m adiabatic_ray sweep FILE` does, and more: a stopped
sweep has time to end, a sweep does not run twice at a time, no secret is sent, and an upload that is too large is
refused with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import tempfile
import time
import urllib.parse
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from adiabatic_ray import errors, sweep_file
from adiabatic_ray.pocket import folder as pocket_folder
from adiabatic_ray.sweep.cluster import ray_private

logging.getLogger("ray").setLevel(logging.CRITICAL)  # our own messages replace Ray's

SWEEP = "adiabatic-ray/sweep"  # a job's metadata: the name of its sweep
ENDING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}  # by default Ray sends SIGKILL after 3 s
UPLOAD_LIMIT = ray_private.JOB_UPLOAD_LIMIT  # bytes; the job server refuses what is larger, with a bare 413
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_TO_START = 60.0  # until a cluster that answers can also take jobs
# These are never uploaded, in addition to what Ray itself excludes.
PRIVATE = [".env", ".env.*", ".netrc", ".aws", ".kube", ".ssh", "*.key", "*.pem"]

_SECRET = re.compile(r"(TOKEN|PASSWORD|SECRET|KEY|CREDENTIALS?)S?$", re.IGNORECASE)
_PASSWORD = re.compile(r"//[^/@\s]*:[^/\s]*@")  # a password in an address


class JobServer:
    """The job server of a Ray cluster. `address` is that of the cluster's dashboard.

    Raises (also each method):
        ResourceError: no job server answers at the address, or it requires a token.
    """

    def __init__(self, address: str) -> None:
        url = address if "://" in address else f"http://{address}"
        if not url.startswith(("http://", "https://")):
            raise errors.ResourceError(
                f"{address} is not the address of a job server. Expected http://HOST:8265, the dashboard's address."
            )
        self.address = url
        ray_private.enable_token_authentication()  # a cluster that was started with a token requires it
        with self._asking():
            self._client = JobSubmissionClient(url)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn the errors of a request into ours."""
        try:
            yield
        except AuthenticationError as error:
            raise errors.ResourceError(
                f"{self.address} wants a token ({errors.summary(error)}). Set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN_PATH to a file that holds it."
            ) from None
        except (OSError, aiohttp.ClientError) as error:
            raise errors.ResourceError(
                f"no job server answers at {self.address} ({errors.summary(error)}). It is the dashboard's address, "
                "http://HOST:8265; start a cluster with `ray start --head`, or forward its port. A job that runs there "
                "goes on."
            ) from None
        except RuntimeError as error:  # Ray's version does not fit, or the server answered with an error
            raise errors.ResourceError(f"{self.address}: {error}") from None

    def submit(self, file: Path, folder: Path, forwarded: Iterable[str]) -> tuple[str, str, int]:
        """Run a sweep file as a job, with the working directory `folder` uploaded.

        Return the sweep's name, the id of its job, and the size of the upload in bytes. If the sweep is running
        already, the id is that of the running job and the size is 0. `forwarded` names environment variables that the
        job gets with the values that they have here, in addition to those that the file uses and those of `shared`.

        Raises:
            ConfigError: the file cannot be used, or a variable is not set or is a secret.
            SweepError: the file is not in the upload, or the upload is too large.
        """
        name = pocket_folder.read(file).name
        needed = sweep_file.variables(file) - {pocket_folder.VARIABLE}  # the pocket world is made where the sweep runs
        variables = environment({*needed, *forwarded, *shared()})
        if not file.resolve().is_relative_to(folder.resolve()):
            raise errors.SweepError(
                f"{file} is not in {folder}, the folder to upload. Run this in a folder that holds it, or give "
                "--working-dir."
            )
        inside = file.resolve().relative_to(folder.resolve())
        number, deadline = 1, time.monotonic() + SECONDS_TO_START
        with tempfile.TemporaryDirectory() as scratch:
            archive = pack(folder, inside, Path(scratch) / "working_dir.zip")
            while True:
                jobs = self.jobs(name)
                number = max(number, len(jobs) + 1)
                if jobs and not jobs[-1].status.is_terminal():
                    return name, jobs[-1].submission_id, 0
                try:
                    with self._asking():
                        job = self._client.submit_job(
                            entrypoint=shlex.join(["python", "-m", "adiabatic_ray", "sweep", str(inside)]),
                            submission_id=f"{name}-{number}",
                            runtime_env={"working_dir": str(archive), "env_vars": variables},
                            metadata={SWEEP: name},
                        )
                except errors.ResourceError as error:
                    if "already exists" in str(error):  # somebody else just submitted it, or another sweep has the id
                        number += 1
                    elif "No available agent" in str(error) and time.monotonic() < deadline:  # a cluster that starts
                        time.sleep(SECONDS_BETWEEN_LOOKS)
                    else:
                        raise
                    continue
                return name, job, archive.stat().st_size

    def jobs(self, name: str) -> list[JobDetails]:
        """The jobs of a sweep, from the first to the last."""
        jobs = [job for job in self._all() if (job.metadata or {}).get(SWEEP) == name]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def _all(self) -> list[JobDetails]:
        with self._asking():
            listed: list[JobDetails] = self._client.list_jobs()
        return listed

    def last(self, name: str) -> JobDetails:
        """The last job of a sweep.

        Raises:
            SweepError: the sweep has no job.
        """
        jobs = self.jobs(name)
        if not jobs:
            names = {(job.metadata or {}).get(SWEEP) for job in self._all()}
            raise errors.SweepError(
                f"no job at {self.address} runs, or ran, a sweep `{name}`; it knows "
                + (", ".join(f"`{known}`" for known in sorted(filter(None, names))) or "none")
                + "."
            )
        return jobs[-1]

    def stop(self, job: str) -> JobStatus:
        """Ask a job to end, wait until it has ended, and return its status."""
        with self._asking():
            self._client.stop_job(job)
        return self.wait(job)

    def wait(self, job: str) -> JobStatus:
        """Wait until a job has ended, and return its status."""
        while True:
            with self._asking():
                status = self._client.get_job_status(job)
            if status.is_terminal():
                return status
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def logs(self, job: str) -> str:
        """A job's output so far."""
        with self._asking():
            output: str = self._client.get_job_logs(job)
        return output

    def follow(self, job: str) -> Iterator[str]:
        """Yield a job's output as it is written, until the job has ended."""
        lines = self._client.tail_job_logs(job)
        with self._asking(), asyncio.Runner() as runner:
            while (chunk := runner.run(_next(lines))) is not None:
                yield chunk


def pack(folder: Path, file: Path, archive: Path) -> Path:
    """Zip a working directory that holds the sweep file `file`. Return `archive`.

    The archive does not contain what `.rayignore`, `.gitignore`, Ray itself and `PRIVATE` exclude.

    Raises:
        SweepError: the sweep file is not in the archive, or the archive is too large.
    """
    ray_private.pack(folder, archive, PRIVATE)
    with zipfile.ZipFile(archive) as packed:
        entries = packed.infolist()
    if str(file) not in {entry.filename for entry in entries}:
        raise errors.SweepError(f"{file} would not be uploaded: .gitignore or .rayignore in {folder} leaves it out.")
    if archive.stat().st_size > UPLOAD_LIMIT:
        largest = sorted(entries, key=lambda entry: entry.compress_size, reverse=True)[:5]
        raise errors.SweepError(
            f"{folder} is {mebibytes(archive.stat().st_size)} when packed, and a job server takes "
            f"{mebibytes(UPLOAD_LIMIT)}. Data and models belong on storage that the cluster reads; leave them out "
            f"with a line each in {folder / '.rayignore'}. The largest: "
            + ", ".join(f"{entry.filename} ({mebibytes(entry.compress_size)})" for entry in largest)
        )
    return archive


def shared() -> set[str]:
    """The variables for MLflow and the hub that are set here and also hold on the cluster.

    An address of this machine, or a file on it, does not.
    """
    names = {"HF_ENDPOINT", "HF_HUB_OFFLINE"} & os.environ.keys()
    server = urllib.parse.urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if server.scheme in ("http", "https") and server.hostname not in ("localhost", "127.0.0.1", "::1"):
        names.add("MLFLOW_TRACKING_URI")
    return names


def environment(names: Iterable[str]) -> dict[str, str]:
    """The environment of a job, with the variables `names` from here.

    Everybody who sees the job can read its environment, so no variable may be a secret.

    Raises:
        ConfigError: a variable is not set, is a secret by its name, or holds a password.
    """
    sent = dict(ENDING)
    for name in sorted(names):
        if _SECRET.search(name):
            raise errors.ConfigError(
                f"{name} looks like a secret, and a job's environment can be read by all who see the job. Set it on "
                "the cluster's nodes (on Kubernetes from a Secret), where every job finds it; or send the name of a "
                "file there that holds it, such as HF_TOKEN_PATH."
            )
        if name not in os.environ:
            raise errors.ConfigError(f"{name} is to be sent with the job, but is not set. Set it: export {name}=...")
        if _PASSWORD.search(os.environ[name]):
            raise errors.ConfigError(
                f"{name} holds a password, and a job's environment can be read by all who see the job. Set it on the "
                "cluster's nodes, or leave the password out of it."
            )
        sent[name] = os.environ[name]
    return sent


async def _next(lines: AsyncIterator[str]) -> str | None:
    return await anext(lines, None)


def mebibytes(size: int) -> str:
    """Format a size in bytes as MiB."""
    return f"{size / 2**20:.1f} MiB"
