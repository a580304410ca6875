"""What is said in the terminal: real output of rich into a pipe, as in a log, and into a pseudo-terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pty
import re
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from adiabatic_ray import config
from adiabatic_ray.data import cache
from adiabatic_ray.data.sets import Triplets
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.evaluate.embedded_data import Data, EmbeddedData, EmbeddingProgress
from adiabatic_ray.sweep import status
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.train.trial import Progress
from adiabatic_ray.trials.record import Candidate, Evaluation, TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests import sweeps
from tests.records import checked, record

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ERASE_LINE = "\x1b[2K"

UNTOUCHED = record(0, 0.0, -1.0, config={})

Talk = Callable[[Console], object]
Shown = Callable[..., str]


def shown(reading: int, writing: int, talk: Talk, quiet: bool) -> str:
    """What somebody reads at the other end while a console talks."""
    chunks: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # how a pseudo-terminal ends
            while chunk := os.read(reading, 4096):
                chunks.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with open(writing, "w", encoding="utf-8") as out, contextlib.redirect_stdout(out):
        console = Console(quiet=quiet)
        talk(console)
        console.clear()
    reader.join(30)
    os.close(reading)
    return b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.fixture
def pipe() -> Shown:
    """Into a pipe."""
    return lambda talk, quiet=False: shown(*os.pipe(), talk, quiet)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Into a pseudo-terminal of 120 columns."""
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return lambda talk, quiet=False: shown(*pty.openpty(), talk, quiet)


def embedding(done: int, total: int, note: str = "") -> EmbeddingProgress:
    return EmbeddingProgress("questions", "passage", cache.Progress(done, total, note))


def test_a_line_is_printed_as_it_is(pipe: Shown, terminal: Shown) -> None:
    line = "reading [red]data[/red] from /somewhere/[x], 100% of " + 200 * "x"
    assert pipe(lambda console: console.say(line)) == f"{line}\n"
    assert ESCAPES.sub("", terminal(lambda console: console.say(line))) == f"{line}\n"


def test_progress_is_shown_in_a_terminal_only_and_taken_away(pipe: Shown, terminal: Shown) -> None:
    def talk(console: Console) -> None:
        console.progress("embedding [1/2]")
        console.clear()
        console.say("done")

    assert pipe(talk) == "done\n"
    after = terminal(talk).rpartition("embedding [1/2]")[2]
    assert ERASE_LINE in after
    assert ESCAPES.sub("", after).strip() == "done"


def test_quiet_prints_nothing(pipe: Shown, terminal: Shown, tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path, sweeps.MINIMAL)
    store.put(record(1, 3.0))

    def talk(console: Console) -> None:
        console.say("a line")
        console.progress("progress")
        console.embedding(embedding(5, 10))
        console.embedding(embedding(10, 10))
        console.changed(store.records[1], store.records, 4)
        console.leaderboard(store.records.values(), "questions")
        console.repeats(store.records.values())
        console.status(status.of(store, running=True))

    assert pipe(talk, quiet=True) == ""
    assert terminal(talk, quiet=True) == ""


def test_embedding_is_a_bar_and_a_line_at_its_end(pipe: Shown, terminal: Shown) -> None:
    def talk(console: Console) -> None:
        console.embedding(embedding(0, 4000, note="another process fills it"))
        console.embedding(embedding(2000, 4000))
        console.embedding(embedding(4000, 4000))

    assert pipe(talk) == "cache: another process fills it\nembedded 4,000 passages of questions\n"
    output = ESCAPES.sub("", terminal(talk))
    assert f"embedding passages of questions {15 * '█'}{15 * '░'} 2,000/4,000" in output
    assert output.endswith("embedded 4,000 passages of questions\n")


def test_draining_shows_all_and_ends_when_interrupted(pipe: Shown) -> None:
    results: list[str] = []

    def embed() -> Generator[EmbeddingProgress, None, str]:
        yield embedding(1, 2)
        yield embedding(2, 2)
        return "tables"

    assert pipe(lambda console: results.append(console.drain(embed()))) == "embedded 2 passages of questions\n"
    assert results == ["tables"]
    interrupted = threading.Event()
    interrupted.set()
    with pytest.raises(KeyboardInterrupt):
        pipe(lambda console: console.drain(embed(), interrupted))


def test_a_running_sweep_in_a_panel(pipe: Shown, terminal: Shown) -> None:
    half = Candidate(0.5, {"gain": 4.0, "constraint": -0.25, "worst_language": -0.5}, "")
    trials = [UNTOUCHED, record(1, 9.0, 0.5, scaled=(half,)), record(2, 3.0), record(3, state="running")]
    records = {one.number: one for one in trials}
    assert pipe(lambda console: console.sweep_progress(records, 8)) == ""
    output = ESCAPES.sub("", terminal(lambda console: console.sweep_progress({3: records[3]}, 8)))
    assert re.search(rf"{30 * '░'} 0/8 trials · 00:00:0\d\nnone feasible yet\ntrial   3  evaluation 1, step 4", output)

    def talk(console: Console) -> None:
        console.sweep_progress({one: records[one] for one in (0, 1, 3)}, 8)
        console.say("trial 2 ended")  # above the panel
        console.sweep_progress(records, 8)

    output = ESCAPES.sub("", terminal(talk))
    assert re.search(rf"{7 * '█'}{23 * '░'} 2/8 trials · [\d.e+]+ a minute, about 1 min left · 00:00:0\d\n", output)
    assert "best: trial 1 at scale 0.5, gain +4.00%, worst language -0.50%, constraint -0.25\n" in output
    assert output.count("trial 2 ended\n") == 1


def test_no_time_is_left_when_all_trials_have_ended(terminal: Shown) -> None:
    def talk(console: Console) -> None:
        console.sweep_progress({0: UNTOUCHED}, 1)
        console.sweep_progress({0: UNTOUCHED, 1: record(1, 3.0)}, 1)

    output = ESCAPES.sub("", terminal(talk))
    assert re.search(r"1/1 trials · [\d.e+]+ a minute · 00:00:0\d\n", output)


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_the_panel_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch, terminal: Shown) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    config = {"learning_rate": 1e-6, "freeze": "embeddings+attention.output+feed_forward.output", "batch_size": 14}
    records = {n: record(n, state="running", config=config | {"margin": 0.1 * n}) for n in range(1, 12)}
    output = ESCAPES.sub("", terminal(lambda console: console.sweep_progress(records, 20)))
    assert "... and 3 more that run" in output
    assert max(map(len, output.splitlines())) <= columns


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            record(7, 2.5),
            r"trial   7  gain \+2\.50% \(p .*\), constraint -0\.50, feasible  \[learning_rate 7e-06\]  1 s",
        ),
        (record(7, 2.5, 0.3), r"trial   7  gain .*, constraint \+0\.30, infeasible at neutral/de/en  \[.*\]  1 s"),
        (record(7, 2.5, 0.3, state="stopped", reason="harm"), r"trial   7  stopped, gain \+2\.50% .* infeasible at"),
        (record(7, state="crashed", reason="Error: [no] memory"), r"trial   7  crashed, Error: \[no\] memory  \["),
        (record(7, state="out_of_memory", reason="at batch 56"), r"trial   7  out of memory, at batch 56  \["),
        (record(7, state="running", reason="its process died"), r"trial   7  its process died"),
        (record(7, state="running"), ""),
    ],
)
def test_a_trial_that_started_went_on_or_ended(pipe: Shown, changed: TrialRecord, line: str) -> None:
    output = pipe(lambda console: console.changed(changed, {7: changed}, 9))
    assert re.fullmatch(f"{line}.*\n" if line else "", output), output


def test_the_leaderboard_of_a_log_has_whole_lines(pipe: Shown, terminal: Shown) -> None:
    """In a log each trial is a line, and nothing is cut; a terminal shows the same words in its own width."""
    long = {"freeze": "embeddings+" + "layer.*.attention.self.query.weight+" * 5 + "pooler", "margin": 0.125}
    half = Candidate(
        0.5, {"gain": 4.0, "constraint": -0.25, "p_value": 0.01, "constraint/worst_z": 1.5}, "neutral/ru/de"
    )
    trials = [
        UNTOUCHED,
        record(1, 3.0, config=long),
        record(2, 9.0, 0.7, scaled=(half,)),
        record(3, 20.0, 0.9),
        record(4, state="crashed", reason="a crash", points=()),
    ]
    output = pipe(lambda console: console.leaderboard(trials, "questions"))
    heading, columns, *rows, more = output.strip().splitlines()
    assert heading.startswith("best trials; gain on questions")
    heads = ["trial", "gain %", "worst language %", "constraint", "scale", "whole gain %", "constraint", "verdict"]
    assert re.split(r"\s{2,}", columns.strip()) == [*heads, "configuration"]
    assert [row.split()[0] for row in rows] == ["2", "1", "0", "3"]
    assert rows[0].split()[:7] == ["2", "+4.00", "-0.25", "0.5", "+9.00", "+0.70", "best"]
    assert "harms de (neutral)" in rows[3]
    assert f"freeze {long['freeze']}, margin 0.125" in rows[1]
    assert "untouched" in rows[2]
    assert more.startswith("... and 1 more in ")
    all_rows = pipe(
        lambda console: console.leaderboard([*trials, *(record(n, 1.0) for n in range(5, 25))], "q", rows=None)
    )
    assert len(all_rows.strip().splitlines()) == 3 + 24
    in_colours = terminal(lambda console: console.leaderboard(trials, "questions"))
    assert "\x1b[1;32m" in in_colours  # the best is bold and green
    assert max(len(line) for line in ESCAPES.sub("", in_colours).splitlines()[2:]) <= 120


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_leaderboard_fits_the_terminal(terminal: Shown, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    masks = ["embeddings+layer.*.output.dense.weight", "embeddings"]
    held = {"gain": 23.6, "constraint": -0.1, "bound/overall": 0.5, "bound/de": 1.0}
    trials = [UNTOUCHED]
    for number in range(1, 8):
        tried = {"learning_rate": 1.234e-5 * number, "margin": 0.1, "freeze": masks[number % 2], "batch_size": 28}
        metrics = {"gain": 3.0 * number, "constraint": 0.4 if number > 5 else -0.3, "worst_language": -1.25}
        tested = checked(held) if number == 5 else ()
        points = (Evaluation(8, 1.0, metrics),)
        trials.append(record(number, 0.0, config=tried, confirmations=tested, points=points))
    printed = ESCAPES.sub("", terminal(lambda console: console.leaderboard(trials, "msmarco")))
    lines = printed.strip("\n").splitlines()
    assert max(map(len, lines[1:])) <= width
    text = " ".join(printed.split())
    assert "harms de" in text
    assert "confirmed" in text
    assert ("margin" in text) == (width == 200)  # the same in all trials
    assert ("scale" in text) == (width >= 120)
    assert ("whole" in text) == (width == 200)


def test_confirmation_stands_beside_selection(pipe: Shown) -> None:
    refuted = {"gain": 8.0, "constraint": 0.3, "bound/overall": 1.25}
    held = {"gain": 2.0, "constraint": -0.1, "bound/overall": 0.5}
    trials = [
        record(1, 9.0, confirmations=checked(refuted)),
        record(2, 3.0, confirmations=checked(held)),
        record(3, 1.0),
    ]
    output = pipe(lambda console: console.leaderboard(trials, "questions")).splitlines()
    rows = {row.split()[0]: row for row in output[3:]}
    assert "confirmed gain %" in output[2]
    assert "not confirmed" in rows["1"]
    assert "at most worse %" in output[2]
    assert rows["2"].split()[:9] == ["2", "+3.00", "-0.50", "1", "+3.00", "-0.50", "+2.00", "+0.50", "best:"]
    assert "best: harms nobody, confirmed" in rows["2"]
    assert "feasible" in rows["3"]


def test_repeats_are_shown_the_steadiest_first(pipe: Shown) -> None:
    def repeats(*outcomes: tuple[float, float]) -> tuple[dict[str, float], ...]:
        return tuple({"seed": float(i), "gain": g, "constraint": c} for i, (g, c) in enumerate(outcomes))

    lucky = record(1, 20.0, repeats=repeats((30.0, -0.1), (25.0, 0.2)))
    steady = record(2, 9.0, repeats=repeats((8.0, -0.4), (9.0, -0.5)))
    output = pipe(lambda console: console.repeats([UNTOUCHED, lucky, steady])).strip().splitlines()
    assert [row.split()[:7] for row in output[2:]] == [
        ["2", "2/2", "+8.50", "0.71", "+8.00", "+9.00", "-0.40"],
        ["1", "1/2", "+27.50", "3.54", "+25.00", "+30.00", "+0.20"],
    ]


def test_where_a_sweep_stands(pipe: Shown, tmp_path: Path) -> None:
    store = TrialStore.create(tmp_path, sweeps.MINIMAL)
    assert pipe(lambda console: console.status(status.of(store, running=False))).splitlines()[0] == (
        "s: not running; trials: none yet"
    )
    half = Candidate(0.5, {"gain": 4.0, "constraint": -0.25}, "")
    for one in (
        UNTOUCHED,
        record(1, 9.0, 0.5, scaled=(half,)),
        record(2, 3.0),
        record(3, state="crashed", reason="a crash"),
        record(4, state="running"),
        record(5, state="running", points=()),
    ):
        store.put(one)
    assert pipe(lambda console: console.status(status.of(store, running=True))).splitlines() == [
        "s: running; trials: 2 complete, 1 crashed, 2 running",
        "feasible: 1 as they are, 1 more when scaled down",
        "best: trial 1, gain +4.00%, not confirmed yet  [learning_rate 1e-06]",
        "trial 4 is unfinished: step 4  [learning_rate 4e-06]",
        "trial 5 is unfinished: no evaluation point yet  [learning_rate 5e-06]",
    ]


def test_rows_that_were_left_out_and_the_untouched_encoder(pipe: Shown, data: Data, embedded: EmbeddedData) -> None:
    assert isinstance(data.train, Triplets)
    dropped = dataclasses.replace(data.train, dropped={"an empty query": 1200})
    assert pipe(lambda console: console.dropped([data.selection["xnli"], dropped])) == (
        "data: train: dropped 1,200 with an empty query\n"
    )
    metrics = Benchmark(embedded.selection).untouched().metrics
    untouched = dataclasses.replace(UNTOUCHED, points=(Evaluation(0, 1.0, metrics),))
    shares = f"questions {metrics['pnd/questions']:.1f}%, xnli {metrics['pnd/xnli']:.1f}%"
    assert pipe(lambda console: console.untouched(untouched, ["questions", "xnli", "gone"])) == (
        f"trial   0  untouched encoder, discordant triplets: {shares}\n"
    )


def test_an_evaluation_point_in_this_process(pipe: Shown, embedded: EmbeddedData) -> None:
    measured = Benchmark(embedded.selection, config.Objective(data="questions"), sweeps.MINIMAL.constraint).untouched()
    point: Progress[Measurement] = Progress(4, 8, "running", {"loss": 0.25}, measured)
    output = pipe(lambda console: console.point(point))
    assert output.startswith("step 4/8: loss 0.2500, gain +0.00% (p 1.0e+00), constraint -1.00, worst ")
    diverged: Progress[Measurement] = Progress(5, 8, "diverged", reason="the loss is nan")
    assert pipe(lambda console: console.point(diverged)) == "step 5/8: the loss is nan\n"
