"""How long the report of a large sweep takes, and how large its page is: 1,000 synthetic trials over four dimensions.

Their outcomes have the shape of XNLI's validation set in 15 languages, 2,000 queries and 800 titles, and go through the
same bootstrap and page as real ones.

    python -m tests.benchmarks.report [TRIALS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from adiabatic_ray import config
from adiabatic_ray.evaluate import discordance, outcomes, significance
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report.ledger import OUTCOMES, Ledger, Point, Record
from adiabatic_ray.sweep import reporting

LANGUAGES = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]
MASKS = ["none", "embeddings", "embeddings+output.dense.weight"]
EDGES = dict(zip(MASKS, (1e-6, 3e-6, 1e-5), strict=True))


def sweep() -> config.Sweep:
    return config.Sweep(
        name="synthetic",
        model=config.Model(name="synthetic"),
        train=config.Train(data=config.Source(path="none"), steps=100),
        evaluate=config.Evaluate(selection={name: config.Source(path="none") for name in ("msmarco", "xnli", "arxiv")}),
        search=config.Search(
            objective="msmarco",
            space={
                "learning_rate": config.Range(low=1e-8, high=1e-4, log=True),
                "batch_size": [8, 14, 28, 56],
                "margin": config.Range(low=0.02, high=0.3),
                "freeze": [*MASKS],
            },
        ),
        constraint=config.Constraint(data="xnli"),
        budget=config.Budget(trials=1000),
    )


def synthesise(folder: Path, trials: int) -> Ledger:
    """A sweep whose trials gain with the learning rate, and harm beyond the edge of their mask."""
    settings = sweep()
    ledger = Ledger.create(folder, config.resolved(settings))
    chance = torch.Generator().manual_seed(0)
    shapes = {"xnli": (830, 2, 15, 15), "msmarco": (2000,), "arxiv": (800,)}
    base = {name: torch.rand(shape, generator=chance) < 0.25 for name, shape in shapes.items()}
    draw = np.random.default_rng(0)
    for number in range(trials + 1):
        rate, mask = 10 ** draw.uniform(-8, -4), str(draw.choice(MASKS))
        gain = 0.0 if number == 0 else 0.3 * min(1.0, rate / 1e-5)
        harm = 0.05 if number and rate > EDGES[mask] else 0.0
        tuned = {}
        for name, before in base.items():
            luck = torch.rand(before.shape, generator=chance)
            moved = 0.01 if number else 0.0
            tuned[name] = torch.where(
                before, luck >= (moved if name == "xnli" else gain), luck < (harm if name == "xnli" else moved / 5)
            )
        found = significance.violation(
            base["xnli"], tuned["xnli"], ([*discordance.COMPARISONS], LANGUAGES), settings.constraint
        )
        metrics = {"constraint": found.value, "constraint/worst_z": found.worst_z, "worst_language": -100 * harm}
        for name, before in base.items():
            broken, fixed = int((tuned[name] & ~before).sum()), int((before & ~tuned[name]).sum())
            metrics[f"improvement/{name}"] = discordance.improvement(int(before.sum()), int(tuned[name].sum()))
            if name != "xnli":
                metrics[f"p_value/{name}"] = significance.mcnemar(broken, fixed)
        metrics |= {"gain": metrics["improvement/msmarco"], "p_value": metrics["p_value/msmarco"]}
        chosen = {
            "learning_rate": rate,
            "batch_size": int(draw.choice([8, 14, 28, 56])),
            "margin": draw.uniform(0.02, 0.3),
            "freeze": mask,
        }
        ledger.put(
            Record(
                number,
                chosen if number else {},
                "complete",
                "",
                1.0 * number,
                2.0 + number,
                (Point(100, 2.0, metrics),),
                found.worst,
            )
        )
        outcomes.save(ledger.trial_folder(number) / OUTCOMES, Outcomes({1.0: tuned}, {"xnli": LANGUAGES}))
    return ledger


def main(trials: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ledger = synthesise(Path(scratch) / "synthetic", trials)
        started = time.perf_counter()
        paths = reporting.write(Ledger(ledger.folder))
        seconds = time.perf_counter() - started
        page = next(path for path in paths if path.name == "report.html")
        print(f"{trials} trials: {seconds:.1f} s (at most 30), page {page.stat().st_size / 1e6:.2f} MB (at most 10)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
