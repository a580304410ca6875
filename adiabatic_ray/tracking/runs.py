"""One sweep's runs in MLflow: a parent, and a child for each trial.

The sweep's folder is the source of truth, and MLflow has a copy. `sync` updates the copy. It may be called at any time,
by this process or a later one: it finds the runs by their tags, and does not send again what was delivered before.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag

from adiabatic_ray import config, storage
from adiabatic_ray.tracking import address
from adiabatic_ray.trials import naming
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord, best
from adiabatic_ray.trials.store import TrialStore

METRICS_PER_BATCH = 800  # MLflow accepts 1000 metrics, params and tags together

_ENDINGS = {"complete": "FINISHED", "stopped": "KILLED", "running": "KILLED"}


def of_sweep(client: Any, experiment_id: str, sweep_id: str) -> list[Run]:
    """All runs of a sweep, however many."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], f"tags.`sweep.id` = '{sweep_id}'", max_results=1000, page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


class MlflowRuns:
    """Writes a sweep's runs to the store at `uri`. Raises whatever MLflow raises."""

    def __init__(self, store: TrialStore, uri: str, experiment: str, datasets: Sequence[DatasetInput] = ()) -> None:
        self.store, self.uri, self.experiment, self.datasets = store, uri, experiment, list(datasets)
        self.client: Any = None  # created by the first `sync`, since it waits for a database that is down
        self.parent = ""  # the id of the sweep's own run
        self.trials: dict[int, str] = {}  # the ids of the trials' runs
        self._experiment_id = ""
        self._sent: dict[int, TrialRecord] = {}
        self._described: set[int] = set()
        self._points: dict[int, int] = {}  # how many evaluation points of a trial were delivered

    def sync(self, *, ending: bool = False) -> None:
        """Deliver everything that changed.

        With `ending`, the runs of unfinished trials are ended too. A resume opens them again.
        """
        self._open()
        for record in list(self.store.records.values()):
            if self._sent.get(record.number) != record or (ending and record.state == "running"):
                self._deliver(record, ending)
                self._sent[record.number] = record

    def close(self, status: str) -> None:
        """End the parent run: FINISHED, KILLED or FAILED."""
        # If MLflow answers the request for a new run too late, its client repeats the request, and there are two runs.
        for run in of_sweep(self.client, self._experiment_id, self.store.id):
            number = run.data.tags.get("sweep.trial")
            if run.info.run_id != (self.parent if number is None else self.trials.get(int(number))):
                self.client.delete_run(run.info.run_id)
        self.client.set_terminated(self.parent, status)

    def log_artifacts(self, paths: Iterable[Path], verdict: str = "") -> None:
        """Log files of the sweep's folder as artifacts of the parent run.

        Its description is the `verdict`, what the sweep came to in Markdown, and a link to the report.
        """
        for path in paths:
            inside = path.parent.relative_to(self.store.folder.path).as_posix()
            with storage.local(path) as here:
                self.client.log_artifact(self.parent, str(here), None if inside == "." else inside)
            if path == self.store.folder.report:
                note = f"{verdict}\n\n[Report of this sweep]({self._link(path)})".strip()
                self.client.set_tag(self.parent, "mlflow.note.content", note)

    def _link(self, path: Path) -> str:
        """The address of an artifact of the parent run, on whatever server shows it."""
        return f"#/experiments/{self._experiment_id}/runs/{self.parent}/artifacts/{path.name}"

    def log_summary(self, winner: TrialRecord) -> None:
        """Log the best trial's metrics on the parent run, and its number and scale as tags."""
        candidate = winner.candidate
        assert candidate is not None
        confirmation = {f"confirmation/{key}": value for key, value in winner.confirmation.items()}
        metrics = _metrics({**candidate.metrics, **confirmation}, time.time(), 0)
        tags = {"best.trial": str(winner.number), "best.scale": f"{candidate.scale:g}", "best.worst": candidate.worst}
        self.client.log_batch(self.parent, metrics, tags=[RunTag(key, value) for key, value in tags.items()])

    def _open(self) -> None:
        """Find this sweep's runs, and create the parent run if there is none."""
        if self.parent:
            return
        self.client = self.client or address.client(self.uri)
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            self._experiment_id = self.client.create_experiment(self.experiment, self._artifacts())
        else:
            self._experiment_id = experiment.experiment_id
        parent, described = "", False
        for run in of_sweep(self.client, self._experiment_id, self.store.id):
            number = run.data.tags.get("sweep.trial")
            if number is None:
                parent, described = run.info.run_id, "sweep.described" in run.data.tags
                self.client.update_run(parent, status="RUNNING")
            else:
                self.trials[int(number)] = run.info.run_id
                self._points[int(number)] = int(run.data.tags.get("sweep.points", 0))
        parent = parent or self._start_parent()
        if not described:
            self._describe_parent(parent)
        self.parent = parent

    def _artifacts(self) -> str | None:
        """Where to keep artifacts: in a folder next to a database. `None` for a server, which has its own setting."""
        if not self.uri.startswith("sqlite:///"):
            return None
        return (Path(self.uri.removeprefix("sqlite:///")).parent / "mlartifacts").resolve().as_uri()

    def _start_parent(self) -> str:
        name = self.store.sweep.name
        tags = {"sweep.role": "sweep", "sweep.name": name, **self._tags(), **_versions()}
        return str(self.client.create_run(self._experiment_id, run_name=name, tags=tags).info.run_id)

    def _tags(self) -> dict[str, str]:
        """Tags of each run, by which a later process finds the runs of the sweep."""
        return {"sweep.id": self.store.id, "sweep.folder": str(self.store.folder.path)}

    def _describe_parent(self, run_id: str) -> None:
        """Log the sweep's settings and data sets. If this is cut off, the next process repeats all of it, safely."""
        settings = config.resolved(self.store.sweep)
        flat = dict(config.flat({key: value for key, value in settings.items() if key != "mlflow"}))
        self.client.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in list(flat.items())[:100]])
        self.client.log_dict(run_id, settings, "sweep.json")
        if self.datasets:
            self.client.log_inputs(run_id, self.datasets)
        self.client.set_tag(run_id, "sweep.described", "yes")

    def _deliver(self, record: TrialRecord, ending: bool) -> None:
        """Deliver everything new of a trial. If its run exists and the trial goes on, this is one request."""
        number, ended = record.number, record.state != "running" or ending
        started = number not in self.trials
        if started:
            self.trials[number], self._points[number] = self._start_trial(record), 0
        run_id = self.trials[number]
        metrics = [*self._new_points(record), *_outcome(record)]
        if ended and record.failed:
            metrics += _failure(record)
        while len(metrics) > METRICS_PER_BATCH:
            self.client.log_batch(run_id, metrics=metrics[:METRICS_PER_BATCH])
            metrics = metrics[METRICS_PER_BATCH:]
        points = max(self._points[number], len(record.points))  # a trial that starts over reports the same points again
        params = [] if number in self._described else self._params(record)
        self.client.log_batch(run_id, metrics, params, _tags(record, points))
        self._described.add(number)
        self._points[number] = points
        if ended:
            finished = _milliseconds(record.finished) if record.finished else None
            self.client.set_terminated(run_id, _ENDINGS.get(record.state, "FAILED"), finished)
            self._log_best_so_far(record)
        elif not started and number not in self._sent:
            self.client.update_run(run_id, status="RUNNING")  # a run that an earlier process of this sweep closed

    def _new_points(self, record: TrialRecord) -> Iterator[Metric]:
        for point in record.points[self._points[record.number] :]:
            yield from _metrics(point.metrics, point.time, point.step)

    def _start_trial(self, record: TrialRecord) -> str:
        tried = naming.among_choices(record, self.store.sweep.search.space)
        own = {
            "mlflow.parentRunId": self.parent,
            "mlflow.note.content": f"[Report of its sweep]({self._link(self.store.folder.report)})",
            "sweep.role": "trial",
            "sweep.trial": str(record.number),
        }
        run = self.client.create_run(
            self._experiment_id,
            start_time=_milliseconds(record.started),
            run_name="untouched" if record.number == UNTOUCHED else f"{record.number}: {tried}",
            tags=own | self._tags(),
        )
        return str(run.info.run_id)

    def _params(self, record: TrialRecord) -> list[Param]:
        train = {k: v for k, v in dataclasses.asdict(self.store.sweep.train).items() if k != "data" and v is not None}
        params = {} if record.number == UNTOUCHED or record.is_soup else train
        params |= record.config
        if "learning_rate" in params:  # the axes of MLflow's charts show five decimals, so 0.00000 here
            params["log10_learning_rate"] = f"{math.log10(params['learning_rate']):.3f}"
        return [Param(key, str(value)) for key, value in params.items()]

    def _log_best_so_far(self, record: TrialRecord) -> None:
        if record.number == UNTOUCHED or record.finished is None:
            return
        done = [r for r in self.store.finished() if r.finished is not None and r.finished <= record.finished]
        leader = best(done)
        if leader is not None and leader.candidate is not None:
            when = _milliseconds(record.finished)
            self.client.log_metric(self.parent, "best_feasible_gain", leader.candidate.gain, when, record.number)


def _outcome(record: TrialRecord) -> list[Metric]:
    """A trial's metrics apart from those of its evaluation points."""
    metrics = {f"confirmation/{key}": value for key, value in record.confirmation.items()}
    if record.tested:
        metrics["confirmation/passed"] = float(not record.tested.failure)
    if record.candidate:
        metrics |= {"candidate/scale": record.candidate.scale}
        metrics |= {f"candidate/{key}": record.candidate.metrics[key] for key in ("gain", "constraint")}
    if record.repeats:
        metrics |= dict(zip(("repeats/feasible_share", "repeats/gain_mean"), record.repeat_score, strict=True))
        if record.gain_std is not None:
            metrics["repeats/gain_sd"] = record.gain_std
    return _metrics(metrics, record.finished or time.time(), 0)


def _failure(record: TrialRecord) -> list[Metric]:
    """Metrics that mark a failed trial as infeasible, whatever was measured before."""
    assert record.constraint is not None
    last = record.points[-1].step + 1 if record.points else 0
    return _metrics({"constraint": record.constraint, "feasible": 0.0}, record.finished or time.time(), last)


def _tags(record: TrialRecord, points: int) -> list[RunTag]:
    """A trial's tags. MLflow stores tags last, so the points that `sweep.points` counts are stored before it."""
    tags = {"sweep.state": record.state, "sweep.reason": record.reason, "worst": record.worst}
    return [*(RunTag(key, value) for key, value in tags.items() if value), RunTag("sweep.points", str(points))]


def _metrics(metrics: Mapping[str, float], when: float, step: int) -> list[Metric]:
    """MLflow's metrics, without those that are not finite, which its stores do not accept."""
    return [Metric(key, value, _milliseconds(when), step) for key, value in metrics.items() if math.isfinite(value)]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _versions() -> dict[str, str]:
    names = ("adiabatic-ray", "ray", "torch", "transformers", "sentence-transformers", "accelerate", "optuna", "mlflow")
    versions = {f"version.{name}": importlib.metadata.version(name) for name in names}
    return versions | {"version.python": platform.python_version()}
