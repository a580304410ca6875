"""From one trial's end to the next trial's first step, on one slot of a real Ray.

The first trial of a slot pays for a process and for loading the encoder; the later ones find both.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile

from adiabatic_ray import config
from adiabatic_ray.sweep import driver
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests.benchmarks import encoder_folder, pocket_source


def first_step(record: TrialRecord) -> float:
    """When a trial took its first step: its first report, less the time of training and evaluation before it."""
    point = record.points[0]
    spent = point.metrics["time/seconds_per_step"] * point.step + point.metrics["time/evaluation_seconds"]
    return point.time - spent


def main() -> None:
    with tempfile.TemporaryDirectory() as storage:
        sweep = config.Sweep(
            name="turnaround",
            model=config.Model(name=str(encoder_folder())),
            train=config.Train(data=pocket_source("questions/train", 280), steps=10, evaluations=2),
            evaluate=config.Evaluate(
                selection={
                    "questions": pocket_source("questions/selection", 50),
                    "xnli": pocket_source("xnli/selection", 5),
                }
            ),
            search=config.Search(objective="questions", space={"learning_rate": config.Range(low=1e-8, high=1e-7)}),
            constraint=config.Constraint(data="xnli"),
            budget=config.Budget(trials=8),
            resources=config.Resources(concurrent_trials=1, cpus_per_trial=2),
            storage=storage,
        )
        driver.run(sweep, Console())
        store = TrialStore(StorageFolder.at(storage).sweep(sweep.name).path)
    trials = [record for number, record in sorted(store.records.items()) if number]
    gaps = [first_step(b) - (a.finished or 0.0) for a, b in itertools.pairwise(trials)]
    start = first_step(trials[0]) - trials[0].started
    print(f"the slot's first trial, from its proposal to its first step: {start:.1f} s")
    print("from a trial's end to the next one's first step: " + ", ".join(f"{gap:.2f}" for gap in gaps) + " s")
    print(f"median {statistics.median(gaps):.2f} s, longest {max(gaps):.2f} s")


if __name__ == "__main__":
    main()
