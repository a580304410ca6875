"""Made-up sweeps for the report, in memory and in a folder."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from adiabatic_ray import config
from adiabatic_ray.trials.record import Candidate, Evaluation, TrialRecord
from adiabatic_ray.trials.store import TrialStore

MASKS = ("embeddings", "embeddings+output.dense.weight")
_SOURCE = config.Source(path="org/data")

PILOT = config.Sweep(
    name="pilot",
    model=config.Model(name="intfloat/multilingual-e5-small"),
    train=config.Train(data=_SOURCE, steps=80),
    evaluate=config.Evaluate(
        selection=dict.fromkeys(("msmarco", "xnli", "arxiv"), _SOURCE),
        confirmation=dict.fromkeys(("msmarco", "xnli"), _SOURCE),
    ),
    search=config.Search(
        objective="msmarco",
        space={
            "learning_rate": config.Range(low=1e-8, high=1e-5, log=True),
            "freeze": [*MASKS],
            "batch_size": [8, 14, 28],
            "margin": config.Range(low=0.05, high=0.2),
        },
    ),
    constraint=config.Constraint(data="xnli"),
    budget=config.Budget(trials=16),
    storage="runs",
)


def pilot(**changes: Any) -> config.Sweep:
    """A search over four hyper-parameters on three sets, with other values for some of the sweep's fields."""
    return dataclasses.replace(PILOT, **changes)


def trial(number: int, gain: float, constraint: float, rate: float = 1e-6, **changes: Any) -> TrialRecord:
    """A complete trial; a gain of 1% or more is significant, and costs the worst language half of it."""
    p_value = 0.2 if gain < 1 else 0.001
    metrics = {
        "gain": gain,
        "constraint": constraint,
        "p_value": p_value,
        "worst_language": -gain / 2,
        "improvement/msmarco": gain,
        "p_value/msmarco": p_value,
        "improvement/xnli": -gain / 4,
        "improvement/xnli/de": -gain / 2,
    }
    config = {"learning_rate": rate, "freeze": changes.pop("mask", "embeddings")} if number else {}
    points = (Evaluation(8, 3.0, metrics),)
    made = TrialRecord(number, config, "complete", "", 1.0, 3.5, points, "neutral/de/en")
    return dataclasses.replace(made, **changes)


def part(scale: float, gain: float, worst: float, constraint: float) -> Candidate:
    """A part of a displacement; `worst` is the improvement of the worst language."""
    return Candidate(scale, {"gain": gain, "worst_language": worst, "constraint": constraint}, "neutral/de/en")


SIX_TRIALS = [
    trial(0, 0, -1),
    trial(1, 0.5, -0.6, 1e-7),
    trial(2, 4.0, -0.2),
    trial(3, 6.0, -0.1),
    trial(4, 20.0, 3.0, 1e-4, state="stopped", mask="none"),
    trial(5, 9.0, -0.5, state="crashed"),
]


def in_folder(folder: Path, count: int, rates: list[float] | None = None, **changes: Any) -> TrialStore:
    """A sweep of the untouched encoder and of `count` drawn trials, at these learning rates or at random ones.

    Its records are in memory only, and it has no outcomes.
    """
    store = TrialStore.create(folder / "sweep", pilot(**changes))
    random = np.random.default_rng(5)
    untouched = drawn_metrics(0.0, 0.0) | {"constraint": -1.0}
    records = [TrialRecord(0, {}, "complete", "", 1.0, 2.0, (Evaluation(0, 1.0, untouched),), "neutral/ar/ar")]
    records += [_drawn(number, random, rates) for number in range(1, count + 1)]
    store.records |= {record.number: record for record in records}
    return store


def drawn_metrics(rate: float, noise: float, share: float = 1.0) -> dict[str, float]:
    """What a trial might measure: gains first grow with the rate, and then the languages fall apart."""
    reach = share * rate / 2e-7
    gain = 14 * math.tanh(reach) + 1.5 * noise * min(1, reach) - 3 * max(0.0, reach - 8)
    xnli = 0.8 * math.tanh(3 * reach) - 0.35 * reach**1.4 + 0.1 * noise
    return {
        "gain": gain,
        "p_value": 10 ** (-abs(gain)),
        "improvement/msmarco": gain,
        "p_value/msmarco": 10 ** (-abs(gain)),
        "improvement/xnli": xnli,
        "improvement/xnli/de": xnli - 0.5,
        "improvement/arxiv": gain / 3 - 0.5 * reach,
        "p_value/arxiv": 0.04 if reach > 0.5 else 0.4,
        "constraint": 0.6 * reach - 1 + 0.1 * noise,
        "constraint/worst_z": 2 + reach,
        "constraint/upper": 0.4 * reach,
        "worst_language": xnli - 0.5 - 0.1 * reach,
    }


def _drawn(number: int, random: np.random.Generator, rates: list[float] | None) -> TrialRecord:
    rate = rates[(number - 1) % len(rates)] if rates else 10 ** random.uniform(-8, -5)
    config = {
        "learning_rate": rate,
        "freeze": MASKS[number % 2],
        "batch_size": int(random.choice([8, 14, 28])),
        "margin": float(random.uniform(0.05, 0.2)),
    }
    noise, own_rate = float(random.normal()), rate / (1 + number % 2)
    points = (Evaluation(40, 3.0, drawn_metrics(own_rate, noise)),)
    made = TrialRecord(number, config, "complete", "", 1.0, 100.5 + number, points, "neutral/sw/de")
    if number % 23 == 11:
        return dataclasses.replace(made, state="out_of_memory", reason="CUDA out of memory at step 3", points=())
    if made.metrics["constraint"] > 4:
        return dataclasses.replace(made, state="stopped", reason="significantly harmful at step 40 of 80")
    scaled = [Candidate(s, drawn_metrics(own_rate, noise, s), "neutral/sw/de") for s in (0.25, 0.5, 0.75)]
    return dataclasses.replace(made, scaled=tuple(scaled))
