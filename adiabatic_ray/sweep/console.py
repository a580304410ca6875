"""Prints a sweep's events, one line each. A terminal also shows a live panel below them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import rich.console
import rich.live
import rich.markup
import rich.spinner
import rich.table
import rich.text

from adiabatic_ray.data.sets import DataSet
from adiabatic_ray.evaluate.benchmark import Measurement
from adiabatic_ray.evaluate.comparison import Comparison
from adiabatic_ray.evaluate.embedded_data import EmbeddingProgress
from adiabatic_ray.report import tables
from adiabatic_ray.report.comparison import Comparison as SweepComparison
from adiabatic_ray.train.trial import Progress
from adiabatic_ray.trials import naming
from adiabatic_ray.trials.record import TrialRecord, best, ranked, trained

Result = TypeVar("Result")
RUNNING_SHOWN = 8  # trials below the lines
LOG_WIDTH = 1000  # columns, more than any line has

# The measures that are shown, with their labels.
SHOWN = {"pnd": "PND %", "ndcg_at_10": "ndcg_at_10", "mrr_at_10": "mrr_at_10", "recall_at_100": "recall_at_100"}


class Console:
    """Prints to standard output, or not at all if it is quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = rich.console.Console(highlight=False, soft_wrap=True, quiet=quiet)
        if not self._rich.is_terminal:  # a log file has no width that a table must fit into
            self._rich.width = LOG_WIDTH
        self._live: rich.live.Live | None = None
        self._done_before: int | None = None  # trials that had ended before those of this run began
        self._began = self._trials_began = time.monotonic()
        self._filled: dict[tuple[str, str], int] = {}

    def say(self, text: str) -> None:
        """Print a line."""
        self._rich.print(rich.markup.escape(text))

    def progress(self, text: str) -> None:
        """Replace what is shown below all lines. Without a terminal there is nothing."""
        self._show(rich.spinner.Spinner("dots", rich.markup.escape(text)))

    def _show(self, panel: rich.console.RenderableType) -> None:
        if not self._rich.is_terminal:
            return
        if self._live is None:
            self._live = rich.live.Live(console=self._rich, refresh_per_second=4, transient=True)
            self._live.start()
        self._live.update(panel)

    def clear(self) -> None:
        """Remove what is shown below all lines."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def embedding(self, embedding: EmbeddingProgress) -> None:
        """Show the progress of embedding: a bar, and one line when a table is complete."""
        progress = embedding.progress
        sides = {"query": "queries", "passage": "passages"}
        texts = f"{sides[embedding.side]} of {embedding.name}"
        if progress.note:
            self.say(f"cache: {progress.note}")
        if progress.done == progress.total:
            self.clear()
            self.say(f"embedded {progress.total:,} {texts}")
            return
        bar = _bar(progress.done, progress.total)
        self.progress(f"embedding {texts} {bar} {progress.done:,}/{progress.total:,}")

    def sweep_progress(self, records: Mapping[int, TrialRecord], trials: int) -> None:
        """Show the progress of a running sweep: how far it is, the best feasible trial, and those that run."""
        if not self._rich.is_terminal:  # it takes longer the more trials there are, and nobody would see it
            return
        ours = trained(records.values())
        running = [record for record in ours if record.state == "running"]
        done = len(ours) - len(running)
        if self._done_before is None:
            self._done_before, self._trials_began = done, time.monotonic()
        lines = [f"{_bar(done, trials)} {done}/{trials} trials · {self._pace(done, trials)}", _leader(best(ours))]
        tried = naming.differences(ours)
        for record in running[:RUNNING_SHOWN]:
            point = record.points[-1] if record.points else None
            reached = f"evaluation {len(record.points)}, step {point.step}" if point else "no evaluation yet"
            gain = f", gain {record.gain:+.2f}%" if point and record.gain is not None else ""
            lines.append(f"trial {record.number:>3}  {reached}{gain}  [{tried.get(record.number, '')}]")
        if len(running) > RUNNING_SHOWN:
            lines.append(f"... and {len(running) - RUNNING_SHOWN} more that run")
        self._show(rich.text.Text("\n".join(lines), no_wrap=True, overflow="ellipsis"))

    def _pace(self, done: int, trials: int) -> str:
        """How fast trials end in this run, how long that will take, and how long it took so far."""
        elapsed, ended = time.monotonic() - self._trials_began, done - (self._done_before or 0)
        clock = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self._began))
        if not ended:
            return clock
        left = (trials - done) * elapsed / ended
        until = f", about {max(1, round(left / 60))} min left" if left else ""
        return f"{60 * ended / elapsed:.2g} a minute{until} · {clock}"

    def drain(
        self, embedding: Generator[EmbeddingProgress, None, Result], interrupted: threading.Event | None = None
    ) -> Result:
        """Embed to the end and show the progress. Return the generator's result.

        Raises:
            KeyboardInterrupt: `interrupted` was set meanwhile.
        """
        while True:
            try:
                self.embedding(next(embedding))
            except StopIteration as done:
                result: Result = done.value
                return result
            if interrupted is not None and interrupted.is_set():
                raise KeyboardInterrupt

    def dropped(self, data: Iterable[DataSet]) -> None:
        """Print how many rows of each set were left out, and why."""
        for dataset in data:
            for reason, count in dataset.dropped.items():
                self.say(f"data: {dataset.name}: dropped {count:,} with {reason}")

    def changed(self, record: TrialRecord, records: Mapping[int, TrialRecord], trials: int) -> None:
        """Show that a trial's record changed: it started, was evaluated, starts again or ended."""
        if record.state != "running":
            self.trial_ended(record)
        elif record.reason:
            self.say(f"trial {record.number:>3}  {record.reason}")
        self.sweep_progress(records, trials)

    def point(self, progress: Progress[Measurement]) -> None:
        """Print an evaluation of a trial that runs in this process."""
        if progress.measurement is None:
            self.say(f"step {progress.step}/{progress.steps}: {progress.reason}")
            return
        metrics, violation = progress.measurement.metrics, progress.measurement.violation
        assert violation is not None
        self.say(
            f"step {progress.step}/{progress.steps}: loss {progress.metrics['loss']:.4f}, gain {metrics['gain']:+.2f}% "
            f"(p {metrics['p_value']:.1e}), constraint {violation.value:+.2f}, worst {violation.worst}"
        )

    def comparison(self, compared: Comparison) -> None:
        """Print an encoder's numbers on each set, next to those of the base if there is one."""
        against = compared.base is not None
        table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
        for column in ("data set", "measure", "value", *(("base", "improvement %", "p") if against else ())):
            table.add_column(column, justify="left" if column in ("data set", "measure") else "right")
        for row in compared.rows():
            if row["measure"] not in SHOWN:
                continue
            form = ".2f" if row["measure"] == "pnd" else ".4f"
            tested = [_number(row.get(k), f) for k, f in (("base", form), ("improvement", "+.2f"), ("p_value", ".1e"))]
            value = _number(row["value"], form)
            table.add_row(row["dataset"], SHOWN[row["measure"]], value, *(tested if against else ()))
        self._rich.print(table)

    def untouched(self, record: TrialRecord, sets: Iterable[str]) -> None:
        """Print the untouched encoder's discordance on the selection sets, which all trials are compared with."""
        shares = {name: record.metrics.get(f"pnd/{name}") for name in sets}
        listed = ", ".join(f"{name} {share:.1f}%" for name, share in shares.items() if share is not None)
        self.say(f"trial   0  untouched encoder, discordant triplets: {listed}")

    def trial_ended(self, record: TrialRecord) -> None:
        """Print how a trial ended."""
        seconds = (record.finished or record.started) - record.started
        what = {"complete": "", "stopped": "stopped, ", "out_of_memory": "out of memory, "}
        state = what.get(record.state, f"{record.state}, ")
        outcome = _outcome(record) if record.constraint is not None else record.reason
        if record.failed:
            outcome = record.reason
        chosen = naming.configuration(record) or "untouched"
        self.say(f"trial {record.number:>3}  {state}{outcome}  [{chosen}]  {seconds:.0f} s")

    def leaderboard(
        self, records: Iterable[TrialRecord], objective: str, rows: int | None = 10, *, wide: bool = False
    ) -> None:
        """Print the best trials that did not fail, at most `rows` of them, with what confirmation says of them.

        A narrow terminal shows the main columns, and of the configurations what differs. `wide` shows all of both.
        """
        listed = ranked(records)
        winner = best(listed)
        shown = [record for record in listed if not record.failed][:rows]
        width = LOG_WIDTH if wide else self._rich.width
        chosen = (
            naming.differences(shown)
            if width < ALL_COLUMNS
            else {one.number: naming.configuration(one) for one in shown}
        )
        columns = [
            column
            for column in COLUMNS
            if width >= column.least_width and (not column.of_confirmation or any(one.confirmation for one in shown))
        ]
        table = rich.table.Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
        for column in columns:
            table.add_column(column.head, justify="right", no_wrap=column.head == "trial")
        table.add_column("verdict", min_width=12)
        table.add_column("configuration", overflow="fold")
        for record in shown:
            cells = [*(column.cell(record) for column in columns), tables.verdict(record, winner)]
            cells.append(chosen.get(record.number) or "untouched")
            style = "bold green" if record is winner else ("" if record.candidate else "dim")
            table.add_row(*map(rich.markup.escape, cells), style=style)
        of = "of what can be handed over"
        if width >= ALL_COLUMNS:
            of = "at the trial's edge, and of its whole displacement; feasible if the constraint is at most 0"
        self.say(f"\nbest trials; gain on {objective} {of}")
        self._rich.print(table, width=width)
        if len(shown) < len(listed):
            self.say(f"... and {len(listed) - len(shown)} more in leaderboard.csv")

    def repeats(self, records: Iterable[TrialRecord]) -> None:
        """Print the results of configurations that were trained again with other seeds, from best to worst."""
        repeated = sorted((record for record in records if record.repeats), key=lambda r: r.repeat_score, reverse=True)
        table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
        for column in ("trial", "seeds feasible", "gain % mean", "sd", "lowest", "highest", "worst constraint"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("configuration")
        for record in repeated:
            gains = [repeat["gain"] for repeat in record.repeats]
            table.add_row(
                str(record.number),
                f"{record.num_feasible_repeats}/{len(gains)}",
                _number(record.repeat_score[1], "+.2f"),
                _number(record.gain_std, ".2f"),
                _number(min(gains), "+.2f"),
                _number(max(gains), "+.2f"),
                _number(max(repeat["constraint"] for repeat in record.repeats), "+.2f"),
                rich.markup.escape(naming.configuration(record)),
            )
        self.say("\ntrained again with fresh seeds, measured on the confirmation sets")
        self._rich.print(table)

    def compared(self, sweeps: SweepComparison) -> None:
        """Print sweeps side by side: what each hands over, paired tests of that, and the settings that differ."""
        for one in sweeps.winners:
            if one.record is None or one.record.candidate is None:
                self.say(f"{one.sweep}: hands over nothing")
                continue
            confirmed = one.record.confirmation.get("gain")
            self.say(
                f"{one.sweep}: trial {one.record.number}, gain {one.record.candidate.gain:+.2f}%"
                + ("" if confirmed is None else f", {confirmed:+.2f}% confirmed")
                + f"  [{naming.configuration(one.record)}]"
            )
        table = rich.table.Table(box=None, pad_edge=False, header_style="bold")
        for head in ("sweep", "confirmation set", f"better than {sweeps.sweeps[0]}", "p"):
            table.add_column(head, overflow="fold")
        for pair in sweeps.paired:
            numbers = [_number(pair.improvement, "+.2f") + "%", _number(pair.p_value, ".1e")]
            table.add_row(
                *map(rich.markup.escape, (pair.sweep, pair.data, *([pair.reason, ""] if pair.reason else numbers)))
            )
        self.say("")
        self._rich.print(table)
        self.say("\nsettings that differ" if sweeps.settings else "\nno settings differ")
        for key, values in sweeps.settings:
            self.say(f"  {key}: {'; '.join(value or 'none' for value in values)}")

    def status(self, state: Mapping[str, Any]) -> None:
        """Print the state of a sweep: its trials by state, the best one, and the unfinished ones."""
        said = ", ".join(f"{count} {name}" for name, count in state["trials"].items()) or "none yet"
        self.say(f"{state['sweep']}: {'running' if state['running'] else 'not running'}; trials: {said}")
        self.say(f"feasible: {state['feasible']} as they are, {state['feasible_scaled']} more when scaled down")
        leader = state["best"]
        if leader is not None:
            word = {True: "confirmed", False: "not confirmed", None: "not confirmed yet"}[leader["confirmed"]]
            chosen = naming.line(leader["configuration"])
            self.say(f"best: trial {leader['trial']}, gain {leader['gain']:+.2f}%, {word}  [{chosen}]")
        for one in state["unfinished"]:
            reached = f"step {one['step']}" if one["step"] else "no evaluation point yet"
            self.say(f"trial {one['trial']} is unfinished: {reached}  [{naming.line(one['configuration'])}]")


def _bar(done: int, total: int) -> str:
    filled = int(30 * done / max(1, total))
    return "█" * filled + "░" * (30 - filled)


def _leader(leader: TrialRecord | None) -> str:
    """The best trial so far: what it gains, and what it costs the worst language."""
    if leader is None or (part := leader.candidate) is None:
        return "none feasible yet"
    scale = "" if part.scale == 1 else f" at scale {part.scale:.2g}"
    worst = part.metrics.get("worst_language")
    cost = "" if worst is None else f", worst language {worst:+.2f}%"
    constraint = part.metrics["constraint"]
    return f"best: trial {leader.number}{scale}, gain {part.gain:+.2f}%{cost}, constraint {constraint:+.2f}"


def _outcome(record: TrialRecord) -> str:
    word = "feasible" if record.feasible else f"infeasible at {record.worst}"
    gain, p_value = _number(record.gain, "+.2f"), _number(record.metrics.get("p_value"), ".1e")
    whole = f"gain {gain}% (p {p_value}), constraint {_number(record.constraint, '+.2f')}, {word}"
    edge = record.edge
    if edge is None or edge.scale == 1:
        return whole
    return f"{whole}; at scale {edge.scale:.2g} gain {edge.gain:+.2f}%, constraint {edge.metrics['constraint']:+.2f}"


def _judged(record: TrialRecord, key: str) -> float | None:
    """A metric of what can be handed over of a trial; of one with nothing that can, of its whole displacement."""
    return (record.candidate or record.whole).metrics.get(key)


def _of_candidate(record: TrialRecord, key: str) -> float | None:
    return record.candidate.metrics[key] if record.candidate else None


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard, and the narrowest terminal that shows it."""

    head: str
    cell: Callable[[TrialRecord], str]
    least_width: int = 0
    of_confirmation: bool = False


ALL_COLUMNS = 160  # a terminal of this width shows all
COLUMNS = [
    Column("trial", lambda record: str(record.number)),
    Column("gain %", lambda record: _number(_judged(record, "gain"), "+.2f")),
    Column("worst language %", lambda record: _number(_judged(record, "worst_language"), "+.2f")),
    Column("constraint", lambda record: _number(_of_candidate(record, "constraint"), "+.2f"), 140),
    Column("scale", lambda record: f"{record.candidate.scale:.2g}" if record.candidate else "", 110),
    Column("whole gain %", lambda record: _number(record.gain, "+.2f"), ALL_COLUMNS),
    Column("constraint", lambda record: _number(record.constraint, "+.2f"), ALL_COLUMNS),
    Column("confirmed gain %", lambda record: _number(record.confirmation.get("gain"), "+.2f"), 90, True),
    Column("at most worse %", lambda record: _number(record.overall_bound, "+.2f"), 140, True),
]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
