"""Trials in a few words."""

from __future__ import annotations

import pytest

from adiabatic_ray import config
from adiabatic_ray.trials import naming
from tests.records import record


@pytest.mark.parametrize(
    ("value", "shown"), [(3.14159e-7, "3.14e-07"), (14, "14"), ("none", "none"), (None, "None"), (1234.5, "1234")]
)
def test_numbers_for_people(value: float | int | str | None, shown: str) -> None:
    assert naming.show(value) == shown


def test_a_trial_is_named_by_what_its_space_leaves_open() -> None:
    """One choice is no choice, and what all masks freeze goes without saying."""
    space: dict[str, config.Range | list[config.Scalar]] = {
        "learning_rate": config.Range(low=1e-8, high=1e-5, log=True),
        "batch_size": [14],
        "freeze": ["embeddings", "embeddings+output.dense.weight"],
    }
    tried = {"learning_rate": 3.21e-6, "batch_size": 14, "freeze": "embeddings+output.dense.weight"}
    assert naming.among_choices(record(7, 1.0, config=tried), space) == "rate 3.21e-06, freeze output.dense.weight"
    whole = tried | {"freeze": "embeddings"}
    assert naming.among_choices(record(7, 1.0, config=whole), space) == "rate 3.21e-06, freeze nothing more"
