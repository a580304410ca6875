"""What a trial costs beside its work: 1,000 trials that only sleep, by the real driver, searcher, store and MLflow.

Prints the overhead per trial and the driver's memory for the first and the last hundred, and MLflow's rows.

    python -m tests.benchmarks.overhead [TRIALS]
"""

from __future__ import annotations

import itertools
import math
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from ray import tune

from adiabatic_ray import config
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.pocket import folder as pocket
from adiabatic_ray.sweep import driver, tune_loop
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials.layout import StorageFolder, SweepFolder
from adiabatic_ray.trials.record import TrialReport
from adiabatic_ray.trials.store import TrialStore
from tests.benchmarks import pocket_source

TRIALS, HUNDRED, SECONDS, AT_ONCE = 1000, 100, 0.05, 2

# As many as in XNLI; the pocket world's are among them.
LANGUAGES = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "it", "ru", "sw", "tr", "ur", "vi", "zh"]
EDGE = 1e-6  # learning rates above it harm


class Sleeping(tune.Trainable):  # type: ignore[misc]
    """Stands for a trial: sleeps, and reports as many metrics as one that is measured in 15 languages."""

    def setup(self, chosen: dict[str, Any], folder: str, **_: Any) -> None:
        self.chosen, self.folder = chosen, SweepFolder(Path(folder))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.chosen = new_config
        return True

    def step(self) -> dict[str, Any]:
        time.sleep(SECONDS)
        number, rate = self.chosen["number"], self.chosen["choice"]["learning_rate"]
        nothing = Checkpoint({"embeddings.LayerNorm.bias": torch.zeros(96)}, {"step": 1})
        checkpoint.save(self.folder.trial(number).displacement, nothing)
        metrics = {"loss": 1.0} | dict.fromkeys((f"displacement/{key}" for key in ("norm", "relative", "max")), 1.0)
        metrics |= {"time/seconds_per_step": SECONDS, "time/evaluation_seconds": SECONDS}
        metrics |= {"pnd/questions": 20.0, "pnd/xnli": 3.0, "improvement/xnli": -1.0, "worst_language": -2.0}
        metrics |= {f"improvement/xnli/{language}": -1.0 for language in LANGUAGES}
        metrics |= {"gain": 1e7 * rate, "p_value": 1e-3, "improvement/questions": 1e7 * rate, "p_value/questions": 1e-3}
        metrics |= {"constraint": math.log(rate / EDGE), "feasible": float(rate <= EDGE)}
        metrics |= {"constraint/worst_z": 9.0, "constraint/degradation": 1.0, "constraint/upper": 2.0}
        return {"report": TrialReport(number, "complete", 1, 1, metrics, "neutral/de/en"), "done": True}


def sweep_in(storage: str) -> config.Sweep:
    """A search over all four dimensions on a few texts of the pocket world."""
    train = pocket_source("questions/train", 20)

    return config.Sweep(
        name="overhead",
        model=config.Model(name=str(pocket.location() / "encoder")),
        train=config.Train(data=train, steps=1, evaluations=1),
        evaluate=config.Evaluate(
            selection={
                "questions": pocket_source("questions/selection", 20),
                "xnli": pocket_source("xnli/selection", 3),
            },
            scales=[],
        ),
        search=config.Search(
            objective="questions",
            space={
                "learning_rate": config.Range(low=1e-8, high=1e-5, log=True),
                "margin": config.Range(low=0.02, high=0.3),
                "batch_size": [8, 14, 28],
                "freeze": ["embeddings", "embeddings+output.dense.weight"],
            },
        ),
        constraint=config.Constraint(data="xnli"),
        budget=config.Budget(trials=int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS),
        resources=config.Resources(concurrent_trials=AT_ONCE),
        storage=storage,
    )


def watch_memory(folder: SweepFolder, memory: dict[int, float]) -> None:
    """The driver's memory in MiB whenever another hundred trials have been started."""
    process = psutil.Process()
    while True:
        started = sum(1 for _ in folder.path.glob(SweepFolder.TRIALS))
        memory.setdefault(started // HUNDRED * HUNDRED, process.memory_info().rss / 2**20)
        time.sleep(0.5)


def main() -> None:
    with tempfile.TemporaryDirectory() as storage, mock.patch.object(tune_loop, "QueryTuning", Sleeping):
        sweep = sweep_in(storage)
        folder = StorageFolder.at(storage).sweep(sweep.name)
        memory: dict[int, float] = {}
        threading.Thread(target=watch_memory, args=(folder, memory), daemon=True).start()
        began = time.perf_counter()
        with mock.patch.object(Console, "trial_ended"):
            driver.run(sweep, Console())
        whole = time.perf_counter() - began
        records = TrialStore(folder.path).records
        with sqlite3.connect(folder.storage.mlflow_database) as store:
            rows = {
                table: store.execute(f"select count(*) from {table}").fetchone()[0]  # noqa: S608
                for table in ("runs", "params", "metrics", "latest_metrics", "tags")
            }
    ends = sorted(record.finished or 0.0 for number, record in records.items() if number)
    # Trials end one after the other, AT_ONCE of them running: what is between two ends, less a trial's share of work.
    gaps = [1000 * (b - a - SECONDS / AT_ONCE) for a, b in itertools.pairwise(ends)]
    first, last = statistics.mean(gaps[:HUNDRED]), statistics.mean(gaps[-HUNDRED:])
    print(f"{len(ends)} trials in {whole:.0f} s, {AT_ONCE} at a time, each {1000 * SECONDS:.0f} ms of work")
    print(f"overhead a trial: first hundred {first:.0f} ms, last hundred {last:.0f} ms: {last / first:.2f} times")
    print("the driver's memory: " + ", ".join(f"{mib:.0f} MiB at {n}" for n, mib in sorted(memory.items())))
    print("rows in MLflow: " + ", ".join(f"{count:,} {table}" for table, count in rows.items()))


if __name__ == "__main__":
    main()
