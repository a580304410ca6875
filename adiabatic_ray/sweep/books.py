"""What a sweep does next, and when it is over: policy without Ray.

The driver asks for configurations, passes on what trials report, and says how they ended. Every change is in the ledger
before anything else learns of it.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from adiabatic_ray import config, storage
from adiabatic_ray.report.ledger import UNTOUCHED, Candidate, Ledger, Point, Record, contenders, ranked
from adiabatic_ray.sweep.searcher import Search
from adiabatic_ray.sweep.space import Config

Listener = Callable[[Record], None]


class Books:
    """The trials of one run of a sweep, which may go on where an earlier run stopped."""

    def __init__(
        self,
        ledger: Ledger,
        search: Search,
        budget: config.Budget,
        listener: Listener,
        interrupted: threading.Event,
        retries: int,
    ) -> None:
        self.ledger, self.search, self.budget, self.retries = ledger, search, budget, retries
        self.listener, self.interrupted = listener, interrupted
        self.failed = False  # over because too many trials crashed
        self.over = ""  # why no further trial starts
        self._exhausted = ""  # why there is no further configuration; lost trials may yet start again
        self._losses: collections.Counter[tuple[int, int]] = collections.Counter()  # of a trial, after a step
        self._began = time.monotonic()
        self._last: dict[int, dict[str, Any]] = {}  # the last report of each trial in this run
        self._dropped: set[int] = set()  # trials whose displacements are deleted
        earlier = [record for number, record in sorted(ledger.records.items()) if number != UNTOUCHED]
        for record in earlier:
            search.resume(record)
        self._unfinished = [record for record in earlier if record.state == "running"]
        self._check_budget()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune pickles what it is handed, so as to restore from it; nothing here is ever restored that way."""
        return object, ()

    # ---- asked by the driver ----

    def next_trial(self) -> tuple[int, Config] | None:
        """The next trial to run, first those that are unfinished; `None` where there is none, for now or for good."""
        if self.over:
            return None
        if self._unfinished:
            record = self._unfinished.pop(0)
            return record.number, dict(record.config)
        number = max(self.ledger.records, default=UNTOUCHED) + 1
        if self.budget.trials is not None and number > self.budget.trials:
            self._exhausted = "all trials were run"
        choice = None if self._exhausted else self.search.propose(number)
        if choice is None:
            self._exhausted = self._exhausted or "every configuration was tried"
            if all(record.state != "running" for record in self.ledger.records.values()):
                self.over = self._exhausted
            return None
        self._put(Record(number=number, config=choice, started=time.time()))
        return number, choice

    @property
    def to_end(self) -> bool:
        """Whether the run is to end now; trials that are running then stay unfinished."""
        hours = self.budget.hours
        return self.interrupted.is_set() or (hours is not None and time.monotonic() - self._began > hours * 3600)

    # ---- told by the driver ----

    def reported(self, report: dict[str, Any]) -> bool:
        """Take a trial's report; whether the trial is to be stopped for harm."""
        number = report["number"]
        self._last[number] = report
        if report["metrics"]:
            record = self.ledger.records[number]
            point = Point(report["step"], time.time(), report["metrics"])
            earlier = tuple(p for p in record.points if p.step < point.step)
            scaled = tuple(Candidate(**candidate) for candidate in report["scaled"])
            self._put(dataclasses.replace(record, points=(*earlier, point), worst=report["worst"], scaled=scaled))
        return self._harmful(report)

    def lost(self, number: int, reason: str) -> None:
        """Take note that a trial ended without a report, by what happened around it: its process or its node was lost.

        It starts again, and goes on from its checkpoint. Where it comes no further `retries` times in a row it is its
        own doing, a process that runs out of memory each time for one, and it has crashed.
        """
        record = self.ledger.records[number]
        reached = record.points[-1].step if record.points else 0
        self._losses[number, reached] += 1
        if self._losses[number, reached] > self.retries:
            self.ended(number, reason)
            return
        self._unfinished.append(record)
        self.listener(dataclasses.replace(record, reason=f"{reason}; starts again after step {reached}"))

    def ended(self, number: int, crash: str = "") -> None:
        """Take note that a trial runs no more: by itself, stopped, cut off by the end of the run, or by a crash."""
        record, last = self.ledger.records[number], self._last.get(number)
        if crash:
            record = record.ended("crashed", crash)
        elif last is None or (last["status"] == "running" and not self._harmful(last)):
            return  # cut off: it stays unfinished, and the next run of the sweep goes on with it
        elif last["status"] == "running":
            record = record.ended("stopped", f"significantly harmful at step {last['step']} of {last['steps']}")
        else:
            record = record.ended(last["status"], last["reason"])
        self.search.tell(record)
        self._put(record)
        self._drop_displacements()
        self._check_budget()

    # ---- rules ----

    def _harmful(self, report: dict[str, Any]) -> bool:
        return bool(self.budget.stop_harmful and report["harmful"] and report["status"] == "running")

    def _check_budget(self) -> None:
        records = [record for record in self.ledger.records.values() if record.number != UNTOUCHED]
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
        """Keep the displacements of the trials that may yet be confirmed, and no others."""
        tuned = [record for number, record in self.ledger.records.items() if number != UNTOUCHED]
        # Where none is feasible, the least infeasible one may be exported all the same.
        kept = contenders(tuned)[: self.budget.confirm] or [r for r in ranked(tuned) if r.state == "complete"][:1]
        for record in self.ledger.finished():
            if record.number not in self._dropped and not record.confirmed and record not in kept:
                self._dropped.add(record.number)
                for name in ("displacement.safetensors", "checkpoint.safetensors"):
                    storage.drop(self.ledger.trial_folder(record.number) / name)

    def _put(self, record: Record) -> None:
        self.ledger.put(record)
        self.listener(record)
