"""What a sweep says in the terminal: one line an event, and where there is a terminal a line of progress below."""

from __future__ import annotations

import collections
import time
from collections.abc import Generator, Iterable, Mapping
from typing import TypeVar

import rich.console
import rich.markup
import rich.status
import rich.table

from adiabatic_ray.data.sets import DataSet, Ranking
from adiabatic_ray.evaluate.benchmark import Measurement
from adiabatic_ray.report import leaderboard
from adiabatic_ray.report.ledger import UNTOUCHED, Ledger, Record, best, ranked
from adiabatic_ray.sweep.materials import Filling
from adiabatic_ray.train.trial import Progress

Found = TypeVar("Found")


class Console:
    """Prints to standard output."""

    def __init__(self) -> None:
        self._rich = rich.console.Console(highlight=False, soft_wrap=True)
        if not self._rich.is_terminal:  # a log file has no width that a table must fit into
            self._rich.width = 1000
        self._status: rich.status.Status | None = None
        self._began = time.monotonic()
        self._filled: dict[tuple[str, str], int] = {}

    def say(self, text: str) -> None:
        """One line."""
        self._rich.print(rich.markup.escape(text))

    # ---- the progress line ----

    def progress(self, text: str) -> None:
        """Replace the progress line; where output goes to no terminal there is none."""
        if not self._rich.is_terminal:
            return
        if self._status is None:
            self._status = self._rich.status("")
            self._status.start()
        self._status.update(rich.markup.escape(text))

    def clear(self) -> None:
        """Take the progress line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def filling(self, filling: Filling) -> None:
        """Progress of embedding frozen documents: a bar, and one line when a table is full."""
        progress = filling.progress
        sides = {"query": "queries", "passage": "passages"}
        if progress.note:
            self.say(f"cache: {progress.note}")
        if progress.done == progress.total:
            self.clear()
            self.say(f"embedded {progress.total:,} {sides[filling.side]} of {filling.name}")
            return
        share = progress.done / max(1, progress.total)
        bar = "█" * int(30 * share) + "░" * (30 - int(30 * share))
        self.progress(f"embedding {sides[filling.side]} of {filling.name} {bar} {progress.done:,}/{progress.total:,}")

    def sweep_progress(self, records: Mapping[int, Record], trials: int | None) -> None:
        """The line below a running sweep: trials done, the best feasible one, the time."""
        if not self._rich.is_terminal:  # nobody would see what takes longer the more trials there are
            return
        tuned = [record for number, record in records.items() if number != UNTOUCHED]
        done = [record for record in tuned if record.state != "running"]
        leader = best(tuned)
        found = "none feasible yet"
        if leader is not None and (part := leader.candidate) is not None:
            scale = "" if part.scale == 1 else f" at scale {part.scale:g}"
            found = f"best feasible gain {part.gain:+.2f}%, constraint {part.metrics['constraint']:+.2f}"
            found += f" (trial {leader.number}{scale})"
        elapsed = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self._began))
        running = ", ".join(str(record.number) for record in tuned if record.state == "running")
        self.progress(f"{len(done)}/{trials or '?'} trials · {found} · running {running or 'none'} · {elapsed}")

    def drain(self, filling: Generator[Filling, None, Found]) -> Found:
        """Run a filling to its end, showing its progress; what it returns."""
        while True:
            try:
                self.filling(next(filling))
            except StopIteration as done:
                found: Found = done.value
                return found

    def dropped(self, data: Iterable[DataSet]) -> None:
        """Rows that were left out, and why."""
        for found in data:
            for reason, count in found.dropped.items():
                self.say(f"data: {found.name}: dropped {count:,} with {reason}")

    # ---- trials ----

    def changed(self, record: Record, records: Mapping[int, Record], trials: int | None) -> None:
        """A trial started, went on or ended."""
        if record.state != "running":
            self.trial_ended(record)
        elif record.reason:
            self.say(f"trial {record.number:>3}  {record.reason}")
        self.sweep_progress(records, trials)

    def point(self, progress: Progress[Measurement]) -> None:
        """An evaluation point of a trial in this process."""
        if progress.measurement is None:
            self.say(f"step {progress.step}/{progress.steps}: {progress.reason}")
            return
        metrics, violation = progress.measurement.metrics, progress.measurement.violation
        assert violation is not None
        self.say(
            f"step {progress.step}/{progress.steps}: loss {progress.metrics['loss']:.4f}, gain {metrics['gain']:+.2f}% "
            f"(p {metrics['p_value']:.1e}), constraint {violation.value:+.2f}, worst {violation.worst}"
        )

    def measurement(self, data: Mapping[str, DataSet], found: Measurement, base: Measurement | None) -> None:
        """An encoder's numbers on each set, beside a base's where there is one."""
        table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
        for column in ("data set", "measure", "value", *(("base", "improvement %", "p") if base else ())):
            table.add_column(column, justify="left" if column in ("data set", "measure") else "right")
        for name, dataset in data.items():
            if isinstance(dataset, Ranking):
                for measure in ("ndcg_at_10", "mrr_at_10", "recall_at_100"):
                    key = f"{measure}/{name}"
                    before = [f"{base.metrics[key]:.4f}", "", ""] if base else []
                    table.add_row(name, measure, f"{found.metrics[key]:.4f}", *before)
                continue
            key = f"pnd/{name}"
            improvement = _number(found.metrics[f"improvement/{name}"], "+.2f")
            p_value = _number(found.metrics.get(f"p_value/{name}"), ".1e")
            before = [f"{base.metrics[key]:.2f}", improvement, p_value] if base else []
            table.add_row(name, "PND %", f"{found.metrics[key]:.2f}", *before)
        self._rich.print(table)

    def untouched(self, record: Record) -> None:
        """What the others are measured against."""
        found = ", ".join(f"{key.removeprefix('pnd/')} {v:.1f}%" for key, v in record.metrics.items() if "pnd/" in key)
        self.say(f"trial   0  untouched encoder, discordant triplets: {found}")

    def trial_ended(self, record: Record) -> None:
        seconds = (record.finished or record.started) - record.started
        what = {"complete": "", "stopped": "stopped, ", "out_of_memory": "out of memory, "}
        state = what.get(record.state, f"{record.state}, ")
        outcome = _outcome(record) if record.constraint is not None else record.reason
        if record.failed:
            outcome = record.reason
        chosen = leaderboard.configuration(record) or "untouched"
        self.say(f"trial {record.number:>3}  {state}{outcome}  [{chosen}]  {seconds:.0f} s")

    def leaderboard(self, records: Iterable[Record], objective: str, rows: int | None = 10) -> None:
        """The best trials, with the untouched encoder for comparison."""
        listed = ranked(records)
        winner = best(listed)
        shown = [record for record in listed if not record.failed][:rows]
        confirmed = any(record.confirmation for record in shown)
        table = rich.table.Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        for column in ("trial", "gain %", "p", "constraint"):
            table.add_column(column, justify="right", no_wrap=True)
        for column in ("confirmed gain %", "p", "constraint") if confirmed else ():
            table.add_column(column, justify="right")
        scaled = any(record.candidate and record.candidate.scale < 1 for record in shown)
        for column in ("", *(("scale",) if scaled else ()), "worst pair", "configuration"):
            table.add_column(column)
        for record in shown:
            shows = record.candidate or record.whole
            outcome = [_outcome_cells(shows.metrics), _outcome_cells(record.confirmation)][: 1 + confirmed]
            z = _number(shows.metrics.get("constraint/worst_z"), ".1f")
            cells = [
                str(record.number),
                *(cell for cells in outcome for cell in cells),
                leaderboard.standing(record, winner),
                *([f"{shows.scale:g}"] if scaled else []),
                f"{shows.worst} (z {z})" if shows.worst else "",
                leaderboard.configuration(record) or "untouched",
            ]
            style = "bold green" if record is winner else ("" if record.candidate else "dim")
            table.add_row(*map(rich.markup.escape, cells), style=style)
        self.say(
            f"\nbest trials; gain on {objective}, feasible where the constraint is at most 0, not confirmed where it "
            "is above 0 on the confirmation sets"
        )
        self._rich.print(table)
        if len(shown) < len(listed):
            self.say(f"... and {len(listed) - len(shown)} more in the leaderboard's file")

    def repeats(self, records: Iterable[Record]) -> None:
        """What became of configurations that were trained again with other seeds, the steadiest first."""
        repeated = sorted((record for record in records if record.repeats), key=lambda r: r.steadiness, reverse=True)
        table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
        for column in ("trial", "seeds feasible", "gain % mean", "sd", "lowest", "highest", "worst constraint"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("configuration")
        for record in repeated:
            gains = [repeat["gain"] for repeat in record.repeats]
            table.add_row(
                str(record.number),
                f"{record.stayed}/{len(gains)}",
                _number(record.steadiness[1], "+.2f"),
                _number(record.spread, ".2f"),
                _number(min(gains), "+.2f"),
                _number(max(gains), "+.2f"),
                _number(max(repeat["constraint"] for repeat in record.repeats), "+.2f"),
                rich.markup.escape(leaderboard.configuration(record)),
            )
        self.say("\ntrained again with fresh seeds, measured on the confirmation sets")
        self._rich.print(table)

    def status(self, ledger: Ledger, running: bool) -> None:
        """Where a sweep stands."""
        tuned = [record for number, record in sorted(ledger.records.items()) if number != UNTOUCHED]
        counts = collections.Counter(record.state for record in tuned)
        said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none yet"
        self.say(f"{ledger.settings['name']}: {'running' if running else 'not running'}; trials: {said}")
        whole, all_told = sum(record.feasible for record in tuned), sum(bool(record.candidate) for record in tuned)
        self.say(f"feasible: {whole} as they are, {all_told - whole} more when scaled down")
        leader = best(ledger.records.values())
        if leader is not None and leader.candidate is not None:
            word = {True: "confirmed", False: "not confirmed", None: "not confirmed yet"}[leader.confirmed]
            chosen = leaderboard.configuration(leader)
            self.say(f"best: trial {leader.number}, gain {leader.candidate.gain:+.2f}%, {word}  [{chosen}]")
        for record in tuned:
            if record.state == "running":
                reached = f"step {record.points[-1].step}" if record.points else "no evaluation point yet"
                self.say(f"trial {record.number} is unfinished: {reached}  [{leaderboard.configuration(record)}]")


def _outcome(record: Record) -> str:
    word = "feasible" if record.feasible else f"infeasible at {record.worst}"
    gain, p_value = _number(record.gain, "+.2f"), _number(record.metrics.get("p_value"), ".1e")
    return f"gain {gain}% (p {p_value}), constraint {_number(record.constraint, '+.2f')}, {word}"


def _outcome_cells(metrics: Mapping[str, float]) -> list[str]:
    return [
        _number(metrics.get("gain"), "+.2f"),
        _number(metrics.get("p_value"), ".1e"),
        _number(metrics.get("constraint"), "+.2f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
