"""Early stopping with ASHA: how many training steps it saves, and what it costs of the gain at the edge.

    python -m tests.benchmarks.early_stopping [--seeds N] [--trials N] [--sampler random|auto]

Each seed runs the same sweep twice on the pocket world, without early stopping and with it. With the sampler `random`
both try the same configurations, so the loss is that of stopping alone. Otherwise ASHA changes what the searcher learns
too.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import statistics
import tempfile
import warnings
from dataclasses import dataclass
from typing import Literal

import adiabatic_ray
from adiabatic_ray import config
from adiabatic_ray.pocket import folder as pocket
from adiabatic_ray.trials.record import tuned
from adiabatic_ray.trials.store import TrialStore
from tests.benchmarks import pocket_source

STEPS, EVALUATIONS = 80, 5
STEPS_GOAL, LOSS_GOAL = 50, 5  # percent


@dataclass(frozen=True)
class Spent:
    """The training steps of a sweep, and the largest gain at an edge of its trials that ran to their end."""

    steps: int
    gain: float


def the_sweep(trials: int, sampler: Literal["auto", "random"], storage: str) -> config.Sweep:
    """Without confirmation sets, since only the search is compared."""
    return config.Sweep(
        name="sweep",
        model=config.Model(name=str(pocket.location() / "encoder")),
        train=config.Train(data=pocket_source("questions/train", 2800), steps=STEPS, evaluations=EVALUATIONS),
        evaluate=config.Evaluate(
            selection={
                "questions": pocket_source("questions/selection", 1000),
                "xnli": pocket_source("xnli/selection", 100),
            }
        ),
        search=config.Search(
            objective="questions",
            sampler=sampler,
            space={
                "learning_rate": config.Range(low=1e-5, high=1e-3, log=True),
                "batch_size": [8, 14, 28],
                "margin": config.Range(low=0.02, high=0.2, log=True),
                "freeze": ["embeddings", "embeddings+output.dense.weight"],
            },
        ),
        constraint=config.Constraint(data="xnli"),
        budget=config.Budget(trials=trials),
        storage=storage,
    )


def run(sweep: config.Sweep, stopping: Literal["asha", "none"], seed: int) -> Spent:
    budget = dataclasses.replace(sweep.budget, early_stopping=stopping)
    result = adiabatic_ray.run(dataclasses.replace(sweep, name=f"{stopping}-{seed}", seed=seed, budget=budget))
    records = tuned(TrialStore(result.folder).records.values())
    steps = sum(record.points[-1].step for record in records if record.points)
    return Spent(steps, max(record.gain_at_edge or 0.0 for record in records if record.state == "complete"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.early_stopping")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--sampler", choices=["auto", "random"], default="auto")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(f"{arguments.trials} trials of {STEPS} steps, {EVALUATIONS} evaluations each, sampler {arguments.sampler}")
    print("seed   steps: none   asha           gain at the best edge: none   asha   lost")
    shares, losses = [], []
    with tempfile.TemporaryDirectory() as storage:
        sweep = the_sweep(arguments.trials, arguments.sampler, storage)
        for seed in range(arguments.seeds):
            whole, stopped = run(sweep, "none", seed), run(sweep, "asha", seed)
            shares.append(100 * stopped.steps / whole.steps)
            losses.append(100 * (1 - stopped.gain / whole.gain))
            print(
                f"{seed:4} {whole.steps:13} {stopped.steps:6} {shares[-1]:5.0f}% {whole.gain:+28.1f}% "
                f"{stopped.gain:+6.1f}% {losses[-1]:+5.1f}%",
                flush=True,
            )
    print(f"steps: mean {statistics.fmean(shares):.0f}% of those without early stopping (goal: {STEPS_GOAL}% at most)")
    print(f"gain: mean {statistics.fmean(losses):+.1f}% lost (goal: less than {LOSS_GOAL}%)")


if __name__ == "__main__":
    main()
