"""Early stopping with ASHA: how many training steps it saves, and what it costs of the gain at the edge.

    python -m tests.benchmarks.early_stopping [--seeds N] [--trials N] [--sampler random|auto]

Each seed runs the same sweep twice on the pocket world, without early stopping and with it. With the sampler `random`
both try the same configurations, so the loss is that of stopping alone. Otherwise ASHA changes what the searcher learns
too. Beside it stands what running fewer trials loses: the first ones of the sweep without early stopping, for as many
steps as ASHA spent.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import math
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
    """The training steps of a sweep's trials and their gains at the edge, in the order in which they ended.

    Only a trial that ran to its end has a gain.
    """

    steps: tuple[int, ...]
    gains: tuple[float, ...]

    def best(self, steps: int) -> float:
        """The largest gain of the trials that had ended after so many steps of all."""
        ended = (
            gain for gain, spent in zip(self.gains, itertools.accumulate(self.steps), strict=True) if spent <= steps
        )
        return max(ended, default=0.0)


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
    records = sorted(tuned(TrialStore(result.folder).records.values()), key=lambda record: record.finished or math.inf)
    steps = tuple(record.points[-1].step if record.points else 0 for record in records)
    return Spent(steps, tuple(record.gain_at_edge or 0.0 if record.state == "complete" else 0.0 for record in records))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.early_stopping")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--sampler", choices=["auto", "random"], default="auto")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(f"{arguments.trials} trials of {STEPS} steps, {EVALUATIONS} evaluations each, sampler {arguments.sampler}")
    print("seed   steps: none   asha           gain at the best edge: none   asha   lost   fewer trials   lost")
    shares, losses, fewer = [], [], []
    with tempfile.TemporaryDirectory() as storage:
        sweep = the_sweep(arguments.trials, arguments.sampler, storage)
        for seed in range(arguments.seeds):
            whole, stopped = run(sweep, "none", seed), run(sweep, "asha", seed)
            all_steps, steps = sum(whole.steps), sum(stopped.steps)
            gain, with_asha, with_fewer = whole.best(all_steps), stopped.best(steps), whole.best(steps)
            shares.append(100 * steps / all_steps)
            losses.append(100 * (1 - with_asha / gain))
            fewer.append(100 * (1 - with_fewer / gain))
            print(
                f"{seed:4} {all_steps:13} {steps:6} {shares[-1]:5.0f}% {gain:+28.1f}% {with_asha:+6.1f}% "
                f"{losses[-1]:+5.1f}% {with_fewer:+13.1f}% {fewer[-1]:+5.1f}%",
                flush=True,
            )
    print(f"steps: mean {statistics.fmean(shares):.0f}% of those without early stopping (goal: {STEPS_GOAL}% at most)")
    print(f"gain: mean {statistics.fmean(losses):+.1f}% lost (goal: less than {LOSS_GOAL}%)")
    print(f"      with fewer trials instead {statistics.fmean(fewer):+.1f}%")


if __name__ == "__main__":
    main()
