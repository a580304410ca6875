"""Decides which trial runs next, and when a sweep is over. Nothing here depends on Ray.

The caller asks for the next trial (`next_trial`), passes on its reports (`reported`), and says that it ended (`ended`,
after `stop_early` if it lagged behind others) or that its process or node was lost (`lost`). Every change is stored
before the listener is called.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable

from adiabatic_ray import config, storage
from adiabatic_ray.search.searcher import Search
from adiabatic_ray.search.space import Config
from adiabatic_ray.trials.record import (
    UNTOUCHED,
    Evaluation,
    TrialRecord,
    TrialReport,
    contenders,
    ranked,
    trained,
    tuned,
)
from adiabatic_ray.trials.store import TrialStore

Listener = Callable[[TrialRecord], None]


class TrialScheduler:
    """Schedules the trials of one run of a sweep, which may go on where an earlier run stopped.

    `over` says why no further trial starts, and is empty until then. `failed` says that too many trials crashed.
    `listener` is called with every record that changed. Setting `interrupted` ends the run.
    """

    def __init__(
        self,
        store: TrialStore,
        sweep: config.Sweep,
        search: Search,
        listener: Listener,
        interrupted: threading.Event,
    ) -> None:
        self.store, self.search, self.budget, self.retries = store, search, sweep.budget, sweep.resources.retries
        self.listener, self.interrupted, self.stops_harmful = listener, interrupted, sweep.stops_harmful
        self.failed = False
        self.over = ""
        self._exhausted = ""  # why there is no further configuration; lost trials may still start again
        self._losses: collections.Counter[tuple[int, int]] = collections.Counter()  # by trial and last evaluated step
        self._began = time.monotonic()
        self._last: dict[int, TrialReport] = {}  # the last report of each trial in this run
        self._lagging: dict[int, str] = {}  # trials that are being stopped early, and why
        self._dropped: set[int] = set()  # trials whose displacements are deleted
        earlier = trained(record for _, record in sorted(store.records.items()))
        for record in earlier:
            search.resume(record)
        self._unfinished = [record for record in earlier if record.state == "running"]
        self._check_budget()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Pickle as an empty object. Tune pickles its searcher and callbacks, but nothing is restored from that."""
        return object, ()

    def next_trial(self) -> tuple[int, Config] | None:
        """The number and the configuration of the next trial, unfinished ones first.

        `None` if no trial can start now. If `over` is set, none will start later either.
        """
        if self.over:
            return None
        if self._unfinished:
            record = self._unfinished.pop(0)
            return record.number, dict(record.config)
        number = max(self.store.records, default=UNTOUCHED) + 1
        if self.budget.trials is not None and len(trained(self.store.records.values())) >= self.budget.trials:
            self._exhausted = "all trials were run"
        choice = None if self._exhausted else self.search.propose(number)
        if choice is None:
            self._exhausted = self._exhausted or "every configuration was tried"
            if all(record.state != "running" for record in self.store.records.values()):
                self.over = self._exhausted
            return None
        self._put(TrialRecord(number=number, config=choice, started=time.time()))
        return number, choice

    def reported(self, report: TrialReport) -> bool:
        """Record what a trial reports. Return whether the trial must stop because it is harmful."""
        earlier = self._last.get(report.number)
        self._last[report.number] = report
        if report.waits and not (earlier and earlier.waits):
            self._tell_wait(report)
        if report.metrics:
            record = self.store.records[report.number]
            point = Evaluation(report.step, time.time(), report.metrics)
            points = (*(p for p in record.points if p.step < point.step), point)
            measured = dataclasses.replace(record, points=points, worst=report.worst, scaled=report.scaled)
            self._put(dataclasses.replace(measured, profile=report.profile))
        return self._harmful(report)

    def stop_early(self, number: int, reason: str) -> None:
        """Learn that a trial is stopped because it lags behind others. `ended` follows, and records it."""
        self._lagging[number] = reason

    def ended(self, number: int, crash: str = "") -> None:
        """Record that a trial ended: by itself, stopped early, or with the run.

        If it crashed, `crash` is the reason.
        """
        record, last = self.store.records[number], self._last.get(number)
        if crash:
            record = record.ended("crashed", crash)
        elif number in self._lagging:
            record = record.ended("stopped", self._lagging[number])
        elif last is None or (last.status == "running" and not self._harmful(last)):
            return  # cut off: it stays unfinished, and the next run of the sweep goes on with it
        elif last.status == "running":
            record = record.ended("stopped", f"significantly harmful at step {last.step} of {last.steps}")
        else:
            record = record.ended(last.status, last.reason)
        self.search.tell(record)
        self._put(record)
        self._drop_displacements()
        self._check_budget()

    def lost(self, number: int, reason: str) -> None:
        """Record that a trial's process or node was lost.

        The trial starts again from its checkpoint. A trial that is lost after the same step more than `retries` times
        has crashed: it is probably itself the cause (it uses more memory than its node has, say).
        """
        record = self.store.records[number]
        reached = record.points[-1].step if record.points else 0
        self._losses[number, reached] += 1
        if self._losses[number, reached] > self.retries:
            self.ended(number, reason)
            return
        self._unfinished.append(record)
        self.listener(dataclasses.replace(record, reason=f"{reason}; starts again after step {reached}"))

    @property
    def to_end(self) -> bool:
        """Whether the run must end now. Trials that are running then stay unfinished."""
        hours = self.budget.hours
        return self.interrupted.is_set() or (hours is not None and time.monotonic() - self._began > hours * 3600)

    def _tell_wait(self, report: TrialReport) -> None:
        """Tell the listener what a trial waits for."""
        place = self.store.folder.path
        reason = (
            f"waits: {place} does not take its results ({report.waits}{storage.free(place)}). Make room there, and it "
            "goes on; Ctrl-C loses nothing that was stored"
        )
        self.listener(dataclasses.replace(self.store.records[report.number], reason=reason))

    def _harmful(self, report: TrialReport) -> bool:
        return self.stops_harmful and report.harmful and report.status == "running"

    def _check_budget(self) -> None:
        records = tuned(self.store.records.values())
        crashed = [record for record in records if record.state == "crashed"]
        target = self.budget.target_gain
        if len(crashed) > self.budget.failed_trials:
            self.failed = True
            self.over = (
                f"{len(crashed)} trials crashed, and `budget.failed_trials` allows {self.budget.failed_trials}; "
                f"the last one: {crashed[-1].reason}"
            )
        elif target is not None and any(r.candidate and r.candidate.gain >= target for r in records):
            self.over = f"a feasible trial reached the target gain of {target:g}%"

    def _drop_displacements(self) -> None:
        """Delete the displacements and checkpoints of ended trials that cannot be confirmed any more."""
        records = tuned(self.store.records.values())
        # If no trial is feasible, the user may still export the least infeasible one.
        kept = contenders(records)[: self.budget.confirm] or [r for r in ranked(records) if r.state == "complete"][:1]
        for record in self.store.finished():
            if record.number not in self._dropped and not record.confirmed and record not in kept:
                self._dropped.add(record.number)
                folder = self.store.folder.trial(record.number)
                storage.drop(folder.displacement)
                storage.drop(folder.checkpoint)

    def _put(self, record: TrialRecord) -> None:
        self.store.put(record)
        self.listener(record)
