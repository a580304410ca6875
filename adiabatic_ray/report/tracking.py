"""MLflow as a mirror of the sweep's folder: one parent run a sweep, one child run a trial.

The folder is the truth and MLflow a copy of it. ``Mirror`` brings the copy up to date and may be called at any time, by
this process or a later one: runs are found again by their tags, and what was delivered before is not sent again.
``Tracker`` calls it from a thread of its own, so a slow or absent server costs a sweep nothing; what could not be
delivered is delivered by the next run of the sweep.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import math
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from adiabatic_ray import config, errors, storage
from adiabatic_ray.report.ledger import UNTOUCHED, Ledger, Record, best

SECONDS_BETWEEN_SYNCS = 2.0
SECONDS_AFTER_FAILURE = 15.0
FINAL_SECONDS = 90.0  # how long an ending sweep waits for a delivery that is under way
METRICS_PER_BATCH = 800  # MLflow takes 1000 of all kinds

_ENDINGS = {"complete": "FINISHED", "stopped": "KILLED", "running": "KILLED"}

for _logger in ("mlflow", "alembic"):
    logging.getLogger(_logger).setLevel(logging.ERROR)


def default_uri(folder: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else a SQLite store in the storage folder, shared by all sweeps there."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve()}/mlflow.db"


def without_password(text: str) -> str:
    """A tracking URI that may be shown, or a text that names one: MLflow's errors quote the address as it was given."""
    return re.sub(r"//([^/:@\s]*):[^/\s]*@", r"//\1:***@", text)


@contextlib.contextmanager
def _at(uri: str) -> Iterator[None]:
    """MLflow's functions at a store of ours. They also set the variable that says where later sweeps are tracked."""
    before = [os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")]
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


class Mirror:
    """Brings MLflow up to date with a sweep's ledger. Raises whatever MLflow raises."""

    def __init__(self, ledger: Ledger, uri: str, experiment: str, datasets: Iterable[Mapping[str, str]] = ()) -> None:
        self.ledger, self.uri, self.experiment, self.datasets = ledger, uri, experiment, list(datasets)
        self._client: Any = None  # opened on the first delivery: a database that is down is waited for there
        self._experiment_id = ""
        self._parent = ""
        self._runs: dict[int, str] = {}
        self._sent: dict[int, Record] = {}
        self._described: set[int] = set()
        self._points: dict[int, int] = {}  # how many evaluation points of a trial were delivered

    # ---- the sweep ----

    def sync(self, *, ending: bool = False) -> None:
        """Deliver whatever changed. With `ending`, runs of unfinished trials are closed too; a resume reopens them."""
        self._open()
        for record in list(self.ledger.records.values()):
            if self._sent.get(record.number) != record or (ending and record.state == "running"):
                self._deliver(record, ending)
                self._sent[record.number] = record

    def close(self, status: str) -> None:
        """End the parent run: FINISHED, KILLED or FAILED."""
        # A run whose start was answered too late was asked for twice, and is there twice.
        for run in self._search(f"tags.`sweep.id` = '{self.ledger.id}'"):
            number = run.data.tags.get("sweep.trial")
            if run.info.run_id != (self._parent if number is None else self._runs.get(int(number))):
                self._client.delete_run(run.info.run_id)
        self._client.set_terminated(self._parent, status)

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Put files of the sweep's folder on the parent run, and link the report from its description."""
        for path in paths:
            inside = path.parent.relative_to(self.ledger.folder).as_posix()
            with storage.local(path) as here:
                self._client.log_artifact(self._parent, str(here), None if inside == "." else inside)
            if path.name == "report.html":
                link = f"#/experiments/{self._experiment_id}/runs/{self._parent}/artifacts/{path.name}"
                self._client.set_tag(self._parent, "mlflow.note.content", f"[Report of this sweep]({link})")

    def log_summary(self, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Put the best trial's numbers and what it is on the parent run."""
        self._client.log_batch(
            self._parent, _metrics(metrics, time.time(), 0), tags=[RunTag(key, value) for key, value in tags.items()]
        )

    def log_model(self, folder: Path, winner: Record) -> None:
        """Log the exported encoder of the winner as a model of the parent run and register it, once.

        It is registered under the sweep's name. The alias `champion` names the version of a winner that was confirmed,
        and none where the winner was not.
        """
        candidate = winner.candidate
        assert candidate is not None
        state = f"{winner.number} scale {candidate.scale:g} confirmed {winner.confirmed}"
        tags = self._client.get_run(self._parent).data.tags
        if tags.get("best.model.state") != state:
            version = self._register(folder, winner, candidate.scale)
            self._client.set_tag(self._parent, "best.model.version", version)
            self._client.set_tag(self._parent, "best.model", str(winner.number))
            self._client.set_tag(self._parent, "best.model.state", state)  # the last: an attempt cut off is repeated
        else:
            version = tags["best.model.version"]
        self._crown(version if winner.confirmed is True else None)

    def drop_champion(self) -> None:
        """Take back what names a winner: the sweep has none, or no longer the one it had."""
        self._crown(None)
        tags = self._client.get_run(self._parent).data.tags
        for key in ("best.trial", "best.scale", "best.worst"):
            if key in tags:
                self._client.delete_tag(self._parent, key)

    @property
    def model_name(self) -> str:
        """What the sweep's encoders are registered under."""
        return f"{self.ledger.settings['name']}-query-encoder"

    def _register(self, folder: Path, winner: Record, scale: float) -> str:
        """Log and register an exported encoder; its version."""
        import mlflow.sentence_transformers
        from mlflow.models import infer_signature

        from adiabatic_ray.model import encoder  # takes seconds to import, and is needed for the best trial only

        texts = ["how small a learning rate is small enough?"]  # the queries' prompt is the model's own business
        tags = {
            "sweep.id": self.ledger.id,
            "sweep.folder": str(self.ledger.folder),
            "sweep.trial": str(winner.number),
            "sweep.run": self._runs.get(winner.number, ""),
            "scale": f"{scale:g}",
            "confirmed": {True: "yes", False: "refuted", None: "no"}[winner.confirmed],
        }
        chatter = io.StringIO()  # MLflow prints that it registered a model
        with (
            storage.local(folder) as here,
            _at(self.uri),
            encoder.quiet(),
            contextlib.redirect_stderr(chatter),
            mlflow.start_run(run_id=self._parent),
        ):
            module = encoder.load(config.Model(name=str(here))).module
            # MLflow calls plain `encode`, and what it serves are queries.
            module.default_prompt_name = "query"
            logged = mlflow.sentence_transformers.log_model(
                module,
                name="query_encoder",
                signature=infer_signature(texts, module.encode(texts, show_progress_bar=False)),
                input_example=texts,
                registered_model_name=self.model_name,
                tags=tags,
                pip_requirements=[f"{name}=={_version(name)}" for name in ("sentence-transformers", "torch")],
            )
        version = str(logged.registered_model_version)
        for key, value in tags.items():
            self._client.set_model_version_tag(self.model_name, version, key, value)
        return version

    def _crown(self, version: str | None) -> None:
        """Point the alias `champion` at a version, or take it back where it names one of this sweep's.

        Another sweep of the same name, in another storage folder, shares the registered model.
        """
        found = self._client.search_registered_models(f"name = '{self.model_name}'")
        current = found[0].aliases.get("champion") if found else None
        if version is not None:
            if current is None or str(current) != version:
                self._client.set_registered_model_alias(self.model_name, "champion", version)
        elif current is not None:
            champion = self._client.get_model_version(self.model_name, str(current))
            if champion.tags.get("sweep.id") == self.ledger.id:
                self._client.delete_registered_model_alias(self.model_name, "champion")

    def _open(self) -> None:
        """Find this sweep's runs, or start them."""
        if self._parent:
            return
        self._client = self._client or mlflow.MlflowClient(self.uri, self.uri)  # one store for both
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            self._experiment_id = self._client.create_experiment(self.experiment, self._artifacts())
        else:
            self._experiment_id = found.experiment_id
        parent, described = "", False
        for run in self._search(f"tags.`sweep.id` = '{self.ledger.id}'"):
            number = run.data.tags.get("sweep.trial")
            if number is None:
                parent, described = run.info.run_id, "sweep.described" in run.data.tags
                self._client.update_run(parent, status="RUNNING")
            else:
                self._runs[int(number)] = run.info.run_id
                self._points[int(number)] = int(run.data.tags.get("sweep.points", 0))
        parent = parent or self._start_parent()
        if not described:
            self._describe_parent(parent)
        self._parent = parent

    def _artifacts(self) -> str | None:
        """Where a database store keeps artifacts: beside it; a server knows by itself."""
        if not self.uri.startswith("sqlite:///"):
            return None
        return (Path(self.uri.removeprefix("sqlite:///")).parent / "mlartifacts").resolve().as_uri()

    def _search(self, condition: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], condition, max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _start_parent(self) -> str:
        settings = self.ledger.settings
        run = self._client.create_run(
            self._experiment_id,
            run_name=settings["name"],
            tags={
                "sweep.id": self.ledger.id,
                "sweep.folder": str(self.ledger.folder),
                "sweep.role": "sweep",
                "sweep.name": settings["name"],
                **_versions(),
            },
        )
        return str(run.info.run_id)

    def _describe_parent(self, run_id: str) -> None:
        """What the sweep is. Delivered again from the start where it was cut off, which changes nothing."""
        settings = self.ledger.settings
        flat = _flatten({key: value for key, value in settings.items() if key != "mlflow"})
        self._client.log_batch(
            run_id, params=[Param(key, str(value)[:6000]) for key, value in list(flat.items())[:100]]
        )
        self._client.log_dict(run_id, settings, "sweep.json")
        if self.datasets:
            self._client.log_inputs(run_id, [_dataset_input(entry) for entry in self.datasets])
        self._client.set_tag(run_id, "sweep.described", "yes")

    # ---- trials ----

    def _deliver(self, record: Record, ending: bool) -> None:
        """All that a trial has to tell, in one request where its run is there and goes on."""
        number, ended = record.number, record.state != "running" or ending
        started = number not in self._runs
        if started:
            self._runs[number], self._points[number] = self._start_trial(record), 0
        run_id = self._runs[number]
        metrics: list[Metric] = []
        for point in record.points[self._points[number] :]:
            metrics += _metrics(point.metrics, point.time, point.step)
        later = {f"confirmation/{key}": value for key, value in record.confirmation.items()}
        if record.candidate:
            later |= {"candidate/scale": record.candidate.scale}
            later |= {f"candidate/{key}": record.candidate.metrics[key] for key in ("gain", "constraint")}
        if record.repeats:
            later |= dict(zip(("repeats/feasible_share", "repeats/gain_mean"), record.steadiness, strict=True))
            if record.spread is not None:
                later["repeats/gain_sd"] = record.spread
        when = record.finished or time.time()
        metrics += _metrics(later, when, 0)
        if ended and record.failed and record.constraint is not None:
            last = record.points[-1].step + 1 if record.points else 0
            metrics += _metrics({"constraint": record.constraint, "feasible": 0.0}, when, last)
        told = {"sweep.state": record.state, "sweep.reason": record.reason, "worst": record.worst}
        tags = [RunTag(key, value) for key, value in told.items() if value]
        told_of = max(self._points[number], len(record.points))  # a trial that starts over comes to the same points
        tags.append(RunTag("sweep.points", str(told_of)))  # tags go last: what they count is there
        while len(metrics) > METRICS_PER_BATCH:
            self._client.log_batch(run_id, metrics=metrics[:METRICS_PER_BATCH])
            metrics = metrics[METRICS_PER_BATCH:]
        self._client.log_batch(run_id, metrics, [] if number in self._described else self._params(record), tags)
        self._described.add(number)
        self._points[number] = told_of
        if ended:
            finished = _milliseconds(record.finished) if record.finished else None
            self._client.set_terminated(run_id, _ENDINGS.get(record.state, "FAILED"), finished)
            self._log_best_so_far(record)
        elif not started and number not in self._sent:
            self._client.update_run(run_id, status="RUNNING")  # a run that an earlier process of this sweep closed

    def _start_trial(self, record: Record) -> str:
        name = "untouched" if record.number == UNTOUCHED else f"trial {record.number}"
        run = self._client.create_run(
            self._experiment_id,
            start_time=_milliseconds(record.started),
            run_name=f"{self.ledger.settings['name']} {name}",
            tags={
                "mlflow.parentRunId": self._parent,
                "sweep.id": self.ledger.id,
                "sweep.folder": str(self.ledger.folder),
                "sweep.role": "trial",
                "sweep.trial": str(record.number),
            },
        )
        return str(run.info.run_id)

    def _params(self, record: Record) -> list[Param]:
        train = {k: v for k, v in self.ledger.settings["train"].items() if k != "data" and v is not None}
        params = {} if record.number == UNTOUCHED else {**train, **record.config}
        if "learning_rate" in params:  # the axes of MLflow's charts show five decimals, which is 0.00000 here
            params["log10_learning_rate"] = f"{math.log10(params['learning_rate']):.3f}"
        return [Param(key, str(value)) for key, value in params.items()]

    def _log_best_so_far(self, record: Record) -> None:
        if record.number == UNTOUCHED or record.finished is None:
            return
        done = [r for r in self.ledger.finished() if r.finished is not None and r.finished <= record.finished]
        leader = best(done)
        if leader is not None and leader.candidate is not None:
            when = _milliseconds(record.finished)
            self._client.log_metric(self._parent, "best_feasible_gain", leader.candidate.gain, when, record.number)


class Tracker:
    """Mirrors a ledger from a thread, until closed. Trouble with MLflow is remembered, never raised."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.trouble = ""  # why the last attempt failed; empty when MLflow is up to date
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()
        self.notify()

    def notify(self) -> None:
        """Say that the ledger changed."""
        self._changed.set()

    def finish(self, deliver: Callable[[], None]) -> str:
        """Stop mirroring and call `deliver` for what is left; why it failed, or an empty text."""
        self._closing.set()
        self._changed.set()
        self._thread.join(FINAL_SECONDS)
        if self._thread.is_alive():
            return "it does not answer"
        self._attempt(deliver)
        return self.trouble

    def _run(self) -> None:
        while not self._closing.is_set():
            self._changed.wait()
            self._changed.clear()
            self._attempt(self.mirror.sync)
            if self.trouble:
                self._changed.set()  # try again even if nothing changes
            self._closing.wait(SECONDS_AFTER_FAILURE if self.trouble else SECONDS_BETWEEN_SYNCS)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
            self.trouble = ""
        except Exception as error:  # noqa: BLE001 - MLflow's stores raise errors of every library they are built on
            self.trouble = without_password(errors.summary(error))


def _metrics(metrics: Mapping[str, float], when: float, step: int) -> list[Metric]:
    """Those that are numbers, which is what MLflow's stores take."""
    return [Metric(key, value, _milliseconds(when), step) for key, value in metrics.items() if math.isfinite(value)]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            flat |= _flatten(entry, f"{prefix}{key}.")
        elif entry not in (None, {}, []):
            flat[f"{prefix}{key}"] = entry
    return flat


def _dataset_input(entry: Mapping[str, str]) -> DatasetInput:
    dataset = Dataset(
        name=entry["name"],
        digest=entry["digest"],
        source_type="local" if Path(entry["path"]).exists() else "hugging_face",
        source=json.dumps({"path": entry["path"]}),
        profile=entry["profile"],
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", entry["context"])])


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def _versions() -> dict[str, str]:
    names = ("adiabatic-ray", "ray", "torch", "transformers", "sentence-transformers", "accelerate", "optuna", "mlflow")
    return {f"version.{name}": _version(name) for name in names} | {"version.python": platform.python_version()}
