"""The command line. Each command imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from adiabatic_ray import __version__, errors

if TYPE_CHECKING:
    from adiabatic_ray import config
    from adiabatic_ray.sweep import jobs
    from adiabatic_ray.sweep.console import Console


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status: 0, 1 for something the user can mend, 130 when interrupted."""
    options = _parser().parse_args(arguments)
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
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        added.set_defaults(run=run)
        return added

    for name, run, help in (
        ("sweep", _sweep, "run a sweep, or go on with one that was stopped"),
        ("validate", _validate, "check a sweep file and print what it would do, without starting anything"),
        ("embed", _embed, "fill the cache of frozen document embeddings ahead of a sweep"),
    ):
        command(name, run, help).add_argument("file", type=Path, metavar="FILE", help="a sweep file")

    train = command("train", _train, "train once with a sweep file's `train` section, in this process")
    train.add_argument("file", type=Path, metavar="FILE", help="a sweep file")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write the query encoder")

    evaluate = command("evaluate", _evaluate, "measure encoders on data sets")
    evaluate.add_argument("--model", required=True, nargs="+", metavar="M", help="folders or hub ids")
    evaluate.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="a file or folder of data, or a section of a sweep file: FILE.yaml:selection, FILE.yaml:confirmation.xnli",
    )
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write discordance.csv")
    evaluate.add_argument(
        "--against", metavar="BASE", help="compare with this encoder, which also embeds the documents for both"
    )

    submit = command("submit", _submit, "run a sweep as a job on a Ray cluster, or go on with it there")
    submit.add_argument("file", type=Path, metavar="FILE", help="a sweep file")
    submit.add_argument(
        "--working-dir", type=Path, default=Path(), metavar="DIR", help="the folder to upload (default: this one)"
    )
    submit.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="send this environment variable too; no secrets"
    )
    submit.add_argument("--wait", action="store_true", help="return when the sweep is over, with its exit status")
    submit.add_argument("--follow", action="store_true", help="as --wait, and show its output")

    stop = command("stop", _stop, "end a sweep that runs as a job; submitting it again goes on with it")
    logs = command("logs", _logs, "print the output of a sweep that runs, or ran, as a job")
    logs.add_argument("--follow", action="store_true", help="go on until the sweep is over")
    for on_cluster in (stop, logs):
        on_cluster.add_argument("sweep", metavar="SWEEP", help="a sweep's name or file")
    for on_cluster in (submit, stop, logs):
        on_cluster.add_argument(
            "--address",
            metavar="URL",
            help="the cluster's dashboard, http://HOST:8265 (default: RAY_API_SERVER_ADDRESS)",
        )

    on_sweeps = {}
    for name, run, help in (
        ("report", _report, "write a sweep's report anew from what its folder holds"),
        ("leaderboard", _leaderboard, "print a sweep's trials from best to worst, also while it runs"),
        ("status", _status, "print where a sweep stands, also while it runs"),
        ("confirm", _confirm, "train a sweep's best configurations again with fresh seeds, on the confirmation sets"),
    ):
        on_sweeps[name] = command(name, run, help)
        on_sweeps[name].add_argument("sweep", metavar="SWEEP", help="a sweep's folder or file")
    on_sweeps["status"].add_argument("--address", metavar="URL", help="of its job on this cluster, by its name or file")
    confirm = on_sweeps["confirm"]
    confirm.add_argument("--top", type=_count, default=3, metavar="K", help="how many configurations (default 3)")
    confirm.add_argument("--seeds", type=_count, default=5, metavar="N", help="how many seeds each (default 5)")

    export = command("export", _export, "write a trial's encoder as sentence-transformers models")
    export.add_argument(
        "where",
        metavar="SWEEP|RUN",
        help="a sweep's folder or file, a trial's folder, or the id of an MLflow run of either",
    )
    export.add_argument("out", type=Path, metavar="OUT", help="a new folder, or an earlier export to replace")
    export.add_argument("--trial", type=int, metavar="N", help="this trial instead of the best")
    export.add_argument("--force", action="store_true", help="even a trial that harms a language; its card says so")
    return parser


# ---- commands ------------------------------------------------------------------------------------------------------


def _sweep(options: argparse.Namespace) -> None:
    console, sweep = _console(), _load(options.file)
    from adiabatic_ray.sweep import driver

    driver.run(sweep, console)


def _validate(options: argparse.Namespace) -> None:
    console, sweep = _console(), _load(options.file)
    from adiabatic_ray.sweep import preview

    for line in preview.lines(sweep):
        console.say(line)
    console.say(f"{options.file} is valid")


def _embed(options: argparse.Namespace) -> None:
    from adiabatic_ray.sweep import local

    local.embed(_load(options.file), _console())


def _train(options: argparse.Namespace) -> None:
    from adiabatic_ray.sweep import local

    local.train(_load(options.file), options.out, _console())


def _evaluate(options: argparse.Namespace) -> None:
    from adiabatic_ray import config
    from adiabatic_ray.sweep import local

    path, _, section = options.data.partition(".yaml:")
    if section:
        sweep = _load(Path(f"{path}.yaml"))
        sources, like = _section(sweep, section), sweep.model
        cache, seed = local.cache_folder(sweep), sweep.seed
    else:
        name = Path(options.data).stem
        sources, like = {name: config.Source(path=options.data)}, config.Model(name="")
        cache, seed = options.out / "cache", 0
    models = [_encoder(like, name) for name in options.model]
    base = _encoder(like, options.against) if options.against else None
    local.evaluate(models, base, sources, options.out, cache, seed, _console())


def _report(options: argparse.Namespace) -> None:
    from adiabatic_ray.sweep import found, reporting

    ledger = found.find(options.sweep)
    reporting.write(ledger)
    _console().say(f"report: {ledger.folder / 'report.html'}")


def _leaderboard(options: argparse.Namespace) -> None:
    from adiabatic_ray.sweep import found

    ledger = found.find(options.sweep)
    _console().leaderboard(ledger.records.values(), ledger.settings["search"]["objective"], rows=None)


def _submit(options: argparse.Namespace) -> None:
    from adiabatic_ray.sweep import jobs

    console, cluster = _console(), jobs.Cluster(_address(options))
    name, job, size = cluster.submit(options.file, options.working_dir, options.env)
    if size:
        folder = options.working_dir.resolve()
        console.say(f"submitted to {cluster.address} as {job}, with {jobs.mebibytes(size)} from {folder}")
    else:
        console.say(f"runs at {cluster.address} already, as {job}")
    if options.follow or options.wait:
        _see_to_its_end(cluster, job, show=options.follow)
    else:
        console.say(f"its output: adiabatic-ray logs {name} --follow --address {cluster.address}")


def _stop(options: argparse.Namespace) -> None:
    from adiabatic_ray.sweep import jobs

    cluster = jobs.Cluster(_address(options))
    job = cluster.last(_sweep_name(options.sweep))
    console = _console()
    console.progress(f"waiting for {job.submission_id} to end")
    status = cluster.stop(job.submission_id)
    console.clear()
    console.say(f"{job.submission_id}: {status.lower()}")


def _logs(options: argparse.Namespace) -> None:
    from adiabatic_ray.sweep import jobs

    cluster = jobs.Cluster(_address(options))
    job = cluster.last(_sweep_name(options.sweep)).submission_id
    if options.follow:
        _see_to_its_end(cluster, job, show=True)
    else:
        print(cluster.logs(job), end="")


def _status(options: argparse.Namespace) -> None:
    if options.address:
        from adiabatic_ray.sweep import jobs

        console, cluster, name = _console(), jobs.Cluster(options.address), _sweep_name(options.sweep)
        cluster.last(name)  # an error where it has none
        for job in cluster.jobs(name):
            console.say(f"{job.submission_id}: {job.status.lower()}. {job.message}")
        return
    from adiabatic_ray.sweep import found, session

    ledger = found.find(options.sweep)
    _console().status(ledger, session.owned(ledger.folder))


def _confirm(options: argparse.Namespace) -> None:
    console = _console()
    from adiabatic_ray.sweep import confirmation, found

    confirmation.run(found.find(options.sweep), options.top, options.seeds, console)


def _export(options: argparse.Namespace) -> None:
    from adiabatic_ray.sweep import handover

    record = handover.write_out(options.where, options.out, options.trial, force=options.force)
    console = _console()
    console.say(f"query encoder of trial {record.number}: {options.out / handover.QUERY_ENCODER}")
    console.say(f"one model with the untouched document side: {options.out / handover.RETRIEVAL_MODEL}")


def _encoder(like: config.Model, name: str) -> config.Model:
    """An encoder with a sweep file's prompts, lengths and pooling where it gives any, else its own.

    The file's revision is one of the file's own model, and of no other.
    """
    import dataclasses

    return dataclasses.replace(like, name=name, revision=like.revision if name == like.name else None)


def _section(sweep: config.Sweep, section: str) -> dict[str, config.Source]:
    """The data sets under `selection`, `confirmation` or one of their names."""
    context, _, name = section.partition(".")
    sets = {"selection": sweep.evaluate.selection, "confirmation": sweep.evaluate.confirmation}.get(context)
    if sets is None:
        raise errors.ConfigError(f"--data: `{context}` is not a section; expected `selection` or `confirmation`.")
    if name and name not in sets:
        raise errors.ConfigError(
            f"--data: `evaluate.{context}` has no `{name}`; it has {', '.join(sets) or 'nothing'}."
        )
    return {name: sets[name]} if name else sets


def _see_to_its_end(cluster: jobs.Cluster, job: str, *, show: bool) -> None:
    """Wait for a job. Raises SweepError where it did not succeed; after Ctrl-C it goes on without us."""
    try:
        if show:
            for text in cluster.follow(job):
                print(text, end="", flush=True)
        status = cluster.wait(job)
    except KeyboardInterrupt:
        print(f"\n{job} goes on; `adiabatic-ray stop` ends it", file=sys.stderr)
        raise
    if status != "SUCCEEDED":
        raise errors.SweepError(f"{job} ended as {status.lower()}; submit it again to go on with it.")


def _address(options: argparse.Namespace) -> str:
    """Of a cluster's job server, from the option or from Ray's own variable."""
    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise errors.ResourceError("which cluster? Give --address http://HOST:8265, or set RAY_API_SERVER_ADDRESS.")
    return address


def _sweep_name(where: str) -> str:
    """A sweep's name, given as it is or by its file."""
    from adiabatic_ray.sweep import found

    path = Path(where)
    return found.read(path).name if path.suffix in (".yaml", ".yml") else path.name


# ---- shared --------------------------------------------------------------------------------------------------------


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text}")
    return int(text)


def _console() -> Console:
    from adiabatic_ray.sweep.console import Console

    return Console()


def _load(path: Path) -> config.Sweep:
    """Read a sweep file; the pocket world is made first where the file speaks of it."""
    from adiabatic_ray import sweep_file
    from adiabatic_ray.pocket import folder

    variables = {}
    if path.is_file() and f"${{{folder.VARIABLE}}}" in path.read_text(encoding="utf-8", errors="replace"):
        console = _console()
        for step, steps in folder.make():
            console.progress(f"making the pocket world, once: training its encoder, step {step}/{steps}")
            if step == steps:
                console.clear()
                console.say(f"made the pocket world in {folder.location()}")
        variables[folder.VARIABLE] = str(folder.location())
    return sweep_file.load(path, variables)
