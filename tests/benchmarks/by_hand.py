"""The whole job by hand, as people do it today, against this project: wall time, and what each side hands over.

    python -m tests.benchmarks.by_hand [--trials N] [--steps N]

By hand is `stock_search`: Ray Tune with Ray's own searcher, the stock trainer with a frozen document side, all texts
encoded at each evaluation, the constraint as a penalty. Both sides get the same data, encoder, steps, evaluations,
number of trials and space, and both run one trial at a time on all of `CPUS` CPUs. One piece of code then measures what
they hand over on the confirmation sets, which no trial has seen.

The data are those of ADIABATIC_REAL_DATA, with which the defaults take less than an hour on two cores, or else the
pocket world.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import numpy as np
import optuna
import transformers
from scipy import stats
from sentence_transformers import SentenceTransformer

import adiabatic_ray
from adiabatic_ray import config
from adiabatic_ray.data import sets
from adiabatic_ray.trials.record import TrialRecord, tuned
from adiabatic_ray.trials.store import TrialStore
from tests.benchmarks import pocket_source, stock_search
from tests.benchmarks.stock_search import Outcomes

TRIALS, STEPS, EVALUATIONS, CPUS = 6, 100, 2, 2
OBJECTIVE, GUARD = "triplets", "xnli"
LANGUAGES = ["ar", "de", "en", "es", "ru", "sw", "th", "zh"]  # with all 15 it would take more than an hour


@dataclass(frozen=True)
class Handover:
    """What a side hands over, in words and as a query encoder, and where its seconds went."""

    chosen: str
    encoder: SentenceTransformer | None
    seconds: Mapping[str, float]


def the_job(trials: int, steps: int, storage: str) -> config.Sweep:
    """The job as a sweep of this project, from which the search by hand reads the same settings."""
    if "ADIABATIC_REAL_DATA" in os.environ:
        encoder, train, selection, confirmation = _real(Path(os.environ["ADIABATIC_REAL_DATA"]))
        rates = config.Range(low=3e-7, high=1e-4, log=True)
    else:
        encoder, train, selection, confirmation = _pocket()
        rates = config.Range(low=1e-6, high=3e-3, log=True)
    return config.Sweep(
        name="ours",
        model=config.Model(name=str(encoder)),
        train=config.Train(data=train, steps=steps, evaluations=EVALUATIONS),
        evaluate=config.Evaluate(selection=selection, confirmation=confirmation),
        search=config.Search(
            objective=OBJECTIVE,
            space={
                "learning_rate": rates,
                "batch_size": [8, 14],
                "margin": config.Range(low=0.02, high=0.3),
                "freeze": ["embeddings", "embeddings+output.dense.weight"],
            },
        ),
        constraint=config.Constraint(data=GUARD),
        budget=config.Budget(trials=trials),
        resources=config.Resources(concurrent_trials=1, cpus_per_trial=CPUS),
        storage=storage,
    )


# The encoder, the training data, the selection sets and the confirmation sets.
Data: TypeAlias = tuple[Path, config.Source, dict[str, config.Source], dict[str, config.Source]]


def _real(folder: Path) -> Data:
    def msmarco(split: str, limit: int) -> config.Source:
        return config.Source(path=str(folder / "msmarco"), split=split, limit=limit)

    def xnli(split: str, limit: int) -> config.Source:
        path = str(folder / "xnli")
        return config.Source(path=path, name="all_languages", split=split, languages=LANGUAGES, limit=limit)

    selection = {OBJECTIVE: msmarco("validation[:50%]", 800), GUARD: xnli("validation", 150)}
    confirmation = {OBJECTIVE: msmarco("validation[50%:]", 1500), GUARD: xnli("test", 200)}
    return folder / "encoder", msmarco("train", 1400), selection, confirmation


def _pocket() -> Data:
    train = pocket_source("questions/train", 2800)
    selection, confirmation = (
        {OBJECTIVE: pocket_source(f"questions/{part}", 1000), GUARD: pocket_source(f"xnli/{part}", 200)}
        for part in ("selection", "confirmation")
    )
    return Path(train.path).parents[1] / "encoder", train, selection, confirmation


def by_hand(sweep: config.Sweep) -> Handover:
    """Search by hand, and hand over what has the best score."""
    began = time.time()
    with timed_search() as asked:
        winner = stock_search.search(sweep, sweep.storage)
    in_trials = {"training steps": winner.training, "evaluations": winner.evaluating}
    return Handover(_words(winner.chosen), winner.encoder, _spent(began, asked, in_trials, winner.ended))


def ours(sweep: config.Sweep) -> Handover:
    """Run the sweep, and hand over what its guarantee allows."""
    began = time.time()
    with timed_search() as asked:
        result = adiabatic_ray.run(sweep)
    best, encoder, chosen = result.best, None, "nothing"
    if best is not None and best.candidate is not None:
        encoder = result.encoder()
        chosen = f"{_words(best.config)}, {best.candidate.scale:.2f} of the displacement"
    records = [record for record in tuned(TrialStore(result.folder).records.values()) if record.state == "complete"]
    in_trials = {
        "training steps": sum(sum(_training(record)) for record in records),
        "evaluations": sum(sum(_evaluating(record)) for record in records),
        "carrying to the edge": sum(_at_edge(record) for record in records),
    }
    return Handover(chosen, encoder, _spent(began, asked, in_trials, max(record.finished or 0.0 for record in records)))


def _training(record: TrialRecord) -> list[float]:
    """The seconds of training before each evaluation."""
    steps = np.diff([0, *(point.step for point in record.points)])
    return [n * point.metrics["time/seconds_per_step"] for n, point in zip(steps, record.points, strict=True)]


def _evaluating(record: TrialRecord) -> list[float]:
    return [point.metrics["time/evaluation_seconds"] for point in record.points]


def _at_edge(record: TrialRecord) -> float:
    """The seconds from the last evaluation to its report: exact measurements at the edge, and what is stored."""
    *_, before, last = record.points
    return last.time - before.time - _training(record)[-1] - _evaluating(record)[-1]


@contextlib.contextmanager
def timed_search() -> Iterator[list[tuple[float, float]]]:
    """When Optuna was asked for a configuration, and how many seconds it took. Both sides ask in this process."""
    asked: list[tuple[float, float]] = []
    ask = optuna.Study.ask

    def timed(*arguments: Any, **named: Any) -> optuna.Trial:
        began = time.time()
        trial = ask(*arguments, **named)
        asked.append((began, time.time() - began))
        return trial

    with mock.patch.object(optuna.Study, "ask", timed):
        yield asked


def _spent(
    began: float, asked: list[tuple[float, float]], in_trials: Mapping[str, float], ended: float
) -> dict[str, float]:
    """Where the seconds from `began` until now went. `ended` is when the last trial ended."""
    first, search = asked[0][0], sum(seconds for _, seconds in asked)
    return {
        "before the first trial": first - began,
        "search": search,
        **in_trials,
        "starting and ending trials": ended - first - search - sum(in_trials.values()),
        "after the last trial": time.time() - ended,
    }


def _words(chosen: Mapping[str, Any]) -> str:
    values = (f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}" for key, value in chosen.items())
    return ", ".join(values)


@dataclass(frozen=True)
class Harm:
    """The degradation in percent, and its one-sided 95% upper bound."""

    degradation: float
    bound: float

    def __str__(self) -> str:
        return f"{self.degradation:+.2f}% (95%: at most {self.bound:+.2f}%)"


def harm(base: Outcomes, after: Outcomes) -> Harm:
    """The degradation over outcomes `[n, ...]`, clustered by premise.

    Source: the ratio estimator of survey sampling and its linearised variance (Cochran 1977, chapter 6).
    """
    before, now = (one.reshape(len(one), -1).sum(1, dtype=float) for one in (base, after))
    ratio, n = now.sum() / before.sum(), len(before)
    error = math.sqrt(n / (n - 1) * np.square(now - ratio * before).sum()) / before.sum()
    return Harm(100 * (ratio - 1), 100 * (ratio - 1 + stats.t.ppf(0.95, n - 1) * error))


def confirm(sweep: config.Sweep, sides: Mapping[str, Handover]) -> dict[str, dict[str, str]]:
    """Measure what the sides handed over on the confirmation sets, with the untouched encoder's documents."""
    untouched, data = SentenceTransformer(sweep.model.name), stock_search.load(sweep.evaluate.confirmation, sweep.seed)
    passages = {name: stock_search.encode_passages(untouched, one.passages) for name, one in data.items()}

    def outcomes(encoder: SentenceTransformer) -> dict[str, Outcomes]:
        queries = {name: stock_search.encode_queries(encoder, one.queries) for name, one in data.items()}
        return {name: stock_search.discordant(one, queries[name], passages[name]) for name, one in data.items()}

    base, guard = outcomes(untouched), data[GUARD]
    assert isinstance(guard, sets.Xnli)
    measured = {}
    for side, handover in sides.items():
        after = outcomes(handover.encoder) if handover.encoder else base
        languages = {
            language: harm(base[GUARD][:, :, x], after[GUARD][:, :, x]) for x, language in enumerate(guard.languages)
        }
        worst = max(languages, key=lambda language: languages[language].bound)
        measured[side] = {
            "confirmed gain": f"{-stock_search.increase(base[OBJECTIVE], after[OBJECTIVE]):+.2f}%",
            "confirmed degradation": str(harm(base[GUARD], after[GUARD])),
            "confirmed, worst language": f"{worst} {languages[worst]}",
        }
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.by_hand")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    if arguments.steps < EVALUATIONS or arguments.steps % EVALUATIONS:
        parser.error(f"--steps must be a multiple of {EVALUATIONS}, the number of evaluations")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as storage:
        sweep = the_job(arguments.trials, arguments.steps, storage)
        sides = {"this project": ours(sweep), "by hand": by_hand(sweep)}
        measured = confirm(sweep, sides)
    show(sweep, sides, measured)


def show(sweep: config.Sweep, sides: Mapping[str, Handover], measured: Mapping[str, Mapping[str, str]]) -> None:
    wall = {side: sum(handover.seconds.values()) for side, handover in sides.items()}
    table = {"": list(sides), "wall time": [f"{seconds:.1f} s" for seconds in wall.values()]}
    for phase in sides["this project"].seconds:
        spent = (handover.seconds.get(phase) for handover in sides.values())
        table[f"  {phase}"] = ["-" if seconds is None else f"{seconds:.1f} s" for seconds in spent]
    for key in measured["by hand"]:
        table[key] = [row[key] for row in measured.values()]
    print(
        f"{sweep.model.name}: {sweep.budget.trials} trials of {sweep.train.steps} steps, "
        f"{EVALUATIONS} evaluations each; both sides one trial at a time on {CPUS} CPUs"
    )
    for heading, cells in table.items():
        print(f"{heading:28}" + "".join(f"{cell:>42}" for cell in cells))
    for side, handover in sides.items():
        gain, degradation = measured[side]["confirmed gain"], measured[side]["confirmed degradation"]
        print(
            f"{side}: in {wall[side] / 60:.1f} min hands over {handover.chosen}, with a gain of {gain} "
            f"and an overall degradation of {degradation} where {sweep.constraint.margin:g}% is allowed."
        )


if __name__ == "__main__":
    main()
