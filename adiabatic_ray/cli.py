"""The command line. Each command imports what it needs when it runs, so that `--help` is fast."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adiabatic_ray import __version__, errors

if TYPE_CHECKING:
    from adiabatic_ray import config
    from adiabatic_ray.sweep.cluster import jobs
    from adiabatic_ray.sweep.console import Console

Options = argparse.Namespace
Run = Callable[[Options], None]
Argument = tuple[tuple[str, ...], dict[str, Any]]

_COMMANDS: list[tuple[Run, str, tuple[Argument, ...]]] = []


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Return its exit status: 0, or 1 after an error that the user can fix, or 130 after an interrupt.

    Raises:
        SystemExit: with status 2 after wrong usage, and with 0 after `--help` or `--version`.
    """
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks how to go on
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (errors.AdiabaticRayError, PermissionError, FileExistsError, NotADirectoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adiabatic-ray",
        description="Find how far a multilingual query encoder can be tuned on English without harming a language.",
        epilog="exit codes: 0 done; 1 an error that the message says the way out of; 2 wrong usage; 130 stopped, and "
        "the same command goes on",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for run, help, arguments in _COMMANDS:
        added = commands.add_parser(run.__name__, help=help, description=f"{help[0].upper()}{help[1:]}.")
        added.set_defaults(run=run)
        for names, options in arguments:
            added.add_argument(*names, **options)
    return parser


def _command(help: str, *arguments: Argument) -> Callable[[Run], Run]:
    """Register a function as a command. The command has the function's name."""

    def register(run: Run) -> Run:
        _COMMANDS.append((run, help, arguments))
        return run

    return register


def _argument(*names: str, **options: Any) -> Argument:
    return names, options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text}")
    return int(text)


FILE = _argument("file", type=Path, metavar="FILE", help="a sweep file")
SWEEP = _argument("sweep", metavar="SWEEP", help="a sweep's folder or file")
JOB = _argument("sweep", metavar="SWEEP", help="a sweep's name or file")
ADDRESS = _argument(
    "--address", metavar="URL", help="the cluster's dashboard, http://HOST:8265 (default: RAY_API_SERVER_ADDRESS)"
)


@_command("run a sweep, or go on with one that was stopped", FILE)
def sweep(options: Options) -> None:
    console, settings = _console(), _load(options.file)
    from adiabatic_ray.sweep import driver

    driver.run(settings, console)


@_command("check a sweep file and print what it would do, without starting anything", FILE)
def validate(options: Options) -> None:
    console, settings = _console(), _load(options.file)
    from adiabatic_ray.sweep import preview

    for line in preview.lines(settings):
        console.say(line)
    console.say(f"{options.file} is valid")


@_command(
    "print the JSON schema of a sweep file, for editors",
    _argument("--keys", action="store_true", help="print all keys as tables in Markdown instead"),
)
def schema(options: Options) -> None:
    import json

    from adiabatic_ray import schema

    print(schema.keys() if options.keys else json.dumps(schema.sweep_file(), indent=1, ensure_ascii=False))


@_command("fill the cache of frozen document embeddings ahead of a sweep", FILE)
def embed(options: Options) -> None:
    from adiabatic_ray.sweep import standalone

    standalone.embed(_load(options.file), _console())


@_command(
    "train once with a sweep file's `train` section, in this process",
    FILE,
    _argument("--out", type=Path, required=True, metavar="DIR", help="where to write the query encoder"),
)
def train(options: Options) -> None:
    from adiabatic_ray.sweep import standalone

    standalone.train(_load(options.file), options.out, _console())


@_command(
    "measure encoders on data sets",
    _argument("--model", required=True, nargs="+", metavar="M", help="folders or hub ids"),
    _argument(
        "--data",
        required=True,
        metavar="DATA",
        help="a file or folder of data, or a section of a sweep file: FILE.yaml:selection, FILE.yaml:confirmation.xnli",
    ),
    _argument("--out", type=Path, required=True, metavar="DIR", help="where to write discordance.csv"),
    _argument("--against", metavar="BASE", help="compare with this encoder, which also embeds the documents for both"),
)
def evaluate(options: Options) -> None:
    from adiabatic_ray import config
    from adiabatic_ray.sweep import standalone

    in_sweep = re.fullmatch(r"(.+\.ya?ml)(?::(.*))?", options.data)
    settings: config.Sweep | None = None
    if in_sweep:
        settings = _load(Path(in_sweep[1]))
        sources = _section(settings, in_sweep[2] or "")
    else:
        sources = {Path(options.data).stem: config.Source(path=options.data)}
    like = config.Model(name="") if settings is None else settings.model
    models = [_encoder(like, name) for name in options.model]
    base = _encoder(like, options.against) if options.against else None
    standalone.evaluate(models, base, sources, options.out, _console(), settings)


@_command(
    "run a sweep as a job on a Ray cluster, or go on with it there",
    FILE,
    _argument(
        "--working-dir", type=Path, default=Path(), metavar="DIR", help="the folder to upload (default: this one)"
    ),
    _argument(
        "--env", action="append", default=[], metavar="NAME", help="send this environment variable too; no secrets"
    ),
    _argument("--wait", action="store_true", help="wait until the sweep is over, and fail if the sweep fails"),
    _argument("--follow", action="store_true", help="like --wait, and print the sweep's output"),
    ADDRESS,
)
def submit(options: Options) -> None:
    from adiabatic_ray.sweep.cluster import jobs

    console, server = _console(), jobs.JobServer(_address(options))
    name, job, size = server.submit(options.file, options.working_dir, options.env)
    if size:
        folder = options.working_dir.resolve()
        console.say(f"submitted to {server.address} as {job}, with {jobs.mebibytes(size)} from {folder}")
    else:
        console.say(f"runs at {server.address} already, as {job}")
    if options.follow or options.wait:
        _see_to_its_end(server, job, show=options.follow)
    else:
        console.say(f"its output: adiabatic-ray logs {name} --follow --address {server.address}")


@_command("stop a sweep that runs as a job; submitting it again goes on with it", JOB, ADDRESS)
def stop(options: Options) -> None:
    from adiabatic_ray.sweep.cluster import jobs

    server = jobs.JobServer(_address(options))
    job = server.last(_sweep_name(options.sweep))
    console = _console()
    console.progress(f"waiting for {job.submission_id} to end")
    ended = server.stop(job.submission_id)
    console.clear()
    console.say(f"{job.submission_id}: {ended.lower()}")


@_command(
    "print the output of a sweep that runs, or ran, as a job",
    JOB,
    _argument("--follow", action="store_true", help="print new output until the sweep is over"),
    ADDRESS,
)
def logs(options: Options) -> None:
    from adiabatic_ray.sweep.cluster import jobs

    server = jobs.JobServer(_address(options))
    job = server.last(_sweep_name(options.sweep)).submission_id
    if options.follow:
        _see_to_its_end(server, job, show=True)
    else:
        print(server.logs(job), end="")


@_command("write a sweep's report again, from the sweep's folder", SWEEP)
def report(options: Options) -> None:
    from adiabatic_ray.report import page
    from adiabatic_ray.search import journal
    from adiabatic_ray.sweep import lookup

    store = lookup.find(options.sweep)
    page.write(store)
    journal.write(store.folder.journal, store.sweep, store.records.values())
    _console().say(f"report: {store.folder.report}")


@_command(
    "show a sweep in MLflow, on a server of this machine unless it is tracked on another",
    SWEEP,
    _argument("--port", type=_count, metavar="N", help="the server's port on 127.0.0.1 (default: one that is free)"),
    _argument("--open", action="store_true", help="open the page in the browser"),
)
def ui(options: Options) -> None:
    from adiabatic_ray.sweep import lookup
    from adiabatic_ray.tracking import address
    from adiabatic_ray.tracking import ui as mlflow_ui

    store = lookup.find(options.sweep)
    uri = address.of(store.sweep.mlflow, store.folder.storage)
    console = _console()
    with mlflow_ui.serving(uri, options.port) as server:
        pages = mlflow_ui.pages(store, uri, server)
        console.say(f"runs:     {pages.runs}\ncharts:   {pages.charts}\ncompared: {pages.compared}")
        if options.open:
            import webbrowser

            webbrowser.open(pages.runs)
        if server != uri.rstrip("/"):
            console.say("Ctrl-C ends the server")
            threading.Event().wait()


@_command(
    "print a sweep's trials from best to worst, also while it runs",
    SWEEP,
    _argument("--wide", action="store_true", help="all columns and settings, however narrow the terminal is"),
    _argument("--json", action="store_true", help="print every metric as JSON, for scripts"),
    _argument("--csv", action="store_true", help="print every metric as CSV, for scripts"),
)
def leaderboard(options: Options) -> None:
    from adiabatic_ray.report import tables
    from adiabatic_ray.sweep import lookup

    store = lookup.find(options.sweep)
    if options.json:
        print(tables.table(store.records.values()).to_json(orient="records", indent=1))
    elif options.csv:
        print(tables.table(store.records.values()).to_csv(index=False), end="")
    else:
        gain = store.sweep.search.gain.key
        _console().leaderboard(store.records.values(), gain, rows=None, wide=options.wide)


@_command(
    "compare sweeps: settings that differ, and winners with paired tests on the same confirmation sets",
    _argument("sweeps", metavar="SWEEP", nargs="+", help="two or more sweeps' folders or files"),
    _argument("--out", type=Path, metavar="FILE", help="also write one page of HTML"),
)
def compare(options: Options) -> None:
    from adiabatic_ray.report import comparison
    from adiabatic_ray.sweep import lookup

    compared = comparison.compare([lookup.find(one) for one in options.sweeps])
    console = _console()
    console.compared(compared)
    if options.out:
        console.say(f"page: {comparison.write(compared, options.out)}")


@_command(
    "print the state of a sweep, also while it runs",
    SWEEP,
    _argument("--address", metavar="URL", help="print the state of its job on this cluster; SWEEP is a name or file"),
    _argument("--json", action="store_true", help="print the state as JSON, for scripts"),
    _argument("--csv", action="store_true", help="print the state as CSV, for scripts"),
)
def status(options: Options) -> None:
    if options.address:
        _job_status(options)
        return
    import json

    from adiabatic_ray.sweep import lookup, session
    from adiabatic_ray.sweep import status as states

    store = lookup.find(options.sweep)
    state = states.of(store, running=session.owned(store.folder))
    if options.json:
        print(json.dumps(state, indent=1))
    elif options.csv:
        import pandas

        print(pandas.json_normalize(state).drop(columns="unfinished").to_csv(index=False), end="")
    else:
        _console().status(state)


@_command(
    "train a sweep's best configurations again with fresh seeds, and measure them on the confirmation sets",
    SWEEP,
    _argument("--top", type=_count, default=3, metavar="K", help="how many configurations (default 3)"),
    _argument("--seeds", type=_count, default=5, metavar="N", help="how many seeds each (default 5)"),
)
def confirm(options: Options) -> None:
    console = _console()
    from adiabatic_ray.sweep import confirmation, lookup

    confirmation.run(lookup.find(options.sweep), options.top, options.seeds, console)


@_command(
    "write a trial's encoder as sentence-transformers models",
    _argument(
        "where",
        metavar="SWEEP|RUN",
        help="a sweep's folder or file, a trial's folder, or the id of an MLflow run of either",
    ),
    _argument("out", type=Path, metavar="OUT", help="a new folder, or an earlier export to replace"),
    _argument("--trial", type=int, metavar="N", help="this trial instead of the best"),
    _argument("--force", action="store_true", help="export even a trial that harms a language; its card says so"),
)
def export(options: Options) -> None:
    from adiabatic_ray.sweep import handover
    from adiabatic_ray.trials.layout import ExportFolder

    record = handover.write_out(options.where, options.out, options.trial, force=options.force)
    console, exported = _console(), ExportFolder(options.out)
    console.say(f"query encoder of trial {record.number}: {exported.query_encoder}")
    console.say(f"one model with the untouched document side: {exported.retrieval_model}")
    if exported.query_adapter.exists():
        console.say(f"adapter for the untouched encoder: {exported.query_adapter}")


@_command(
    "print what makes a shell complete commands and options",
    _argument("shell", choices=["bash", "zsh", "fish"], help='`eval "$(adiabatic-ray completion bash)"` in ~/.bashrc'),
)
def completion(options: Options) -> None:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["adiabatic-ray"], shell=options.shell))


def _console() -> Console:
    from adiabatic_ray.sweep.console import Console

    return Console()


def _load(path: Path) -> config.Sweep:
    """Read a sweep file. If the file uses the pocket world, make that first and show the progress."""
    from adiabatic_ray.pocket import folder

    console = _console()

    def show(step: int, steps: int) -> None:
        console.progress(f"making the pocket world, once: training its encoder, step {step}/{steps}")
        if step == steps:
            console.clear()
            console.say(f"made the pocket world in {folder.location()}")

    return folder.load(path, show)


def _encoder(like: config.Model, name: str) -> config.Model:
    """The settings of the encoder `name`, with the prompts, lengths and pooling of `like`.

    A revision belongs to one model, and so does trust in its code, so another model does not get those of `like`.
    """
    import dataclasses

    if name == like.name:
        return like
    return dataclasses.replace(like, name=name, revision=None, trust_remote_code=False)


def _section(settings: config.Sweep, section: str) -> dict[str, config.Source]:
    """The data sets of `selection` or `confirmation`, or one of them, as in `confirmation.xnli`."""
    context, _, name = section.partition(".")
    sections = "expected `selection` or `confirmation` after the file and a colon."
    if not context:
        raise errors.ConfigError(f"--data: a section of the sweep file is missing; {sections}")
    sets = {"selection": settings.evaluate.selection, "confirmation": settings.evaluate.confirmation}.get(context)
    if sets is None:
        raise errors.ConfigError(f"--data: `{context}` is not a section; {sections}")
    if name and name not in sets:
        raise errors.ConfigError(
            f"--data: `evaluate.{context}` has no `{name}`; it has {', '.join(sets) or 'nothing'}."
        )
    return {name: sets[name]} if name else sets


def _job_status(options: Options) -> None:
    from adiabatic_ray.sweep.cluster import jobs

    console, server, name = _console(), jobs.JobServer(options.address), _sweep_name(options.sweep)
    server.last(name)  # raises an error if the sweep has no job
    for job in server.jobs(name):
        console.say(f"{job.submission_id}: {job.status.lower()}. {job.message}")


def _see_to_its_end(server: jobs.JobServer, job: str, *, show: bool) -> None:
    """Wait until a job has ended. After Ctrl-C the job goes on.

    Raises:
        SweepError: the job did not succeed.
    """
    try:
        if show:
            for text in server.follow(job):
                print(text, end="", flush=True)
        ended = server.wait(job)
    except KeyboardInterrupt:
        print(f"\n{job} goes on; `adiabatic-ray stop` ends it", file=sys.stderr)
        raise
    if ended != "SUCCEEDED":
        raise errors.SweepError(f"{job} ended as {ended.lower()}; submit it again to go on with it.")


def _address(options: Options) -> str:
    """The address of the job server, from the option `--address` or from Ray's own variable."""
    address: str | None = options.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise errors.ResourceError("no cluster given. Give --address http://HOST:8265, or set RAY_API_SERVER_ADDRESS.")
    return address


def _sweep_name(where: str) -> str:
    """The name of a sweep. `where` is the name itself or the sweep's file."""
    from adiabatic_ray.pocket import folder

    path = Path(where)
    return folder.read(path).name if path.suffix in (".yaml", ".yml") else path.name
