"""Sweeps in memory, for tests that need settings and run nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

from adiabatic_ray import config

MINIMAL = config.Sweep(
    name="s",
    model=config.Model(name="encoder"),
    train=config.Train(data=config.Source(path="train.jsonl"), steps=8),
    evaluate=config.Evaluate(
        selection={"questions": config.Source(path="questions.jsonl"), "xnli": config.Source(path="xnli.jsonl")}
    ),
    search=config.Search(
        objective="questions",
        method="grid",
        space={"learning_rate": [1e-8, 1e-7, 1e-6], "freeze": ["none", "embeddings"]},
    ),
    constraint=config.Constraint(data="xnli"),
    storage="runs",
)


def minimal(**changes: Any) -> config.Sweep:
    """A grid over six configurations, with other values for some of the sweep's fields."""
    return dataclasses.replace(MINIMAL, **changes)
