"""Real parts for all tests: the pocket world, a real Ray, and real data where the environment has them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adiabatic_ray import config, sweep_file
from adiabatic_ray.pocket import folder
from tests import chromium, mlflow_server

if TYPE_CHECKING:  # these take seconds to import, and most tests need none of them
    from moto.server import ThreadedMotoServer
    from playwright.sync_api import Browser

    from adiabatic_ray.model.encoder import Encoder

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # which has its core; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in ("ADIABATIC_STORAGE", "MLFLOW_TRACKING_URI"):  # of whoever runs the tests
    os.environ.pop(_name, None)


@pytest.fixture(autouse=True)
def no_tracking_uri_left_behind() -> Iterator[None]:
    """`mlflow.set_tracking_uri`, which tests call, also sets where later sweeps are tracked."""
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The pocket world's folder, made on first use."""
    for _ in folder.make():
        pass
    return folder.location()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, where the environment names one."""
    if "ADIABATIC_REAL_DATA" not in os.environ:
        pytest.skip("ADIABATIC_REAL_DATA is not set: no real data here")
    return Path(os.environ["ADIABATIC_REAL_DATA"])


@pytest.fixture(scope="session")
def encoder(pocket: Path) -> Encoder:
    """The pocket encoder. Tests must leave it as it is, which its own invariants see to."""
    from adiabatic_ray.model import encoder

    return encoder.load(config.Model(name=str(pocket / "encoder")))


def small_sweep(pocket: Path) -> dict[str, Any]:
    """The content of a sweep file; tests change what they need."""
    return {
        "name": "small",
        "model": {"name": str(pocket / "encoder")},
        "train": {
            "data": {"path": str(pocket / "questions" / "train.jsonl"), "limit": 200},
            "steps": 8,
            "evaluations": 2,
        },
        "evaluate": {
            "selection": {
                "questions": {"path": str(pocket / "questions" / "selection.jsonl"), "limit": 200},
                "xnli": {"path": str(pocket / "xnli" / "selection.jsonl"), "limit": 20},
            },
            "confirmation": {
                "questions": {"path": str(pocket / "questions" / "confirmation.jsonl"), "limit": 100},
                "xnli": {"path": str(pocket / "xnli" / "confirmation.jsonl"), "limit": 40},
            },
        },
        "search": {
            "objective": "questions",
            "space": {
                "learning_rate": {"low": 1e-6, "high": 1e-2, "log": True},
                "freeze": ["embeddings", "embeddings+output.dense.weight"],
            },
        },
        # As wide as 20 premises in selection and 40 in confirmation allow to show anything.
        "constraint": {"data": "xnli", "margin": 10.0, "language_margin": 60.0},
        "budget": {"trials": 4},
        "resources": {"concurrent_trials": 1},
    }


@pytest.fixture(scope="session")
def write_sweep_in(pocket: Path) -> Callable[..., Path]:
    """Write a small sweep on the pocket world into a folder, changed by dotted keys; JSON is YAML."""

    def write(folder: Path, changes: dict[str, Any] | None = None) -> Path:
        content = small_sweep(pocket)
        for dotted, value in ({"storage": str(folder / "runs")} | (changes or {})).items():
            *sections, key = dotted.split(".")
            node = content
            for section in sections:
                node = node[section]
            if value is None:
                node.pop(key, None)
            else:
                node[key] = value
        path = folder / f"{content['name']}.yaml"
        path.write_text(json.dumps(content, indent=1))
        return path

    return write


@pytest.fixture
def write_sweep(write_sweep_in: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Write a small sweep into the test's own folder."""
    return functools.partial(write_sweep_in, tmp_path)


@pytest.fixture
def load_sweep(write_sweep: Callable[..., Path]) -> Callable[..., config.Sweep]:
    """The small sweep, changed by dotted keys and loaded."""
    return lambda changes=None: sweep_file.load(write_sweep(changes))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray of two CPUs, shared by the tests of a session, and as quiet as one that a sweep starts."""
    from adiabatic_ray import sweep  # noqa: F401, I001 - sets what Ray reads when it is imported
    from adiabatic_ray.sweep.cluster import ray_private
    import ray

    ray_private.keep_quiet()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium, where there is one.

    Not the session's: playwright keeps an event loop running for as long, beside which no other can run.
    """
    executable = chromium.executable()
    if executable is None:
        pytest.skip("no chromium or google-chrome is installed, so no page is opened")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ThreadedMotoServer]:
    """A server that speaks S3's protocol, on one port for the session: file systems are kept, and know it only."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=mlflow_server.free_port(), verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    """That server with an empty bucket `bucket`; what it holds outlasts its `stop` and `start`."""
    import boto3

    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_server._port}", "AWS_DEFAULT_REGION": "us-east-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3").create_bucket(Bucket="bucket")
    yield s3_server
    bucket.objects.delete()
