"""Parallel coordinates: the heights of the lines, and the ticks of each axis."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from adiabatic_ray import config
from adiabatic_ray.report import parallel
from adiabatic_ray.trials.record import TrialRecord
from tests.report.axes import lines, only
from tests.report.sweeps import SIX_TRIALS, trial

SPACE: parallel.Space = {
    "learning_rate": config.Range(low=1e-8, high=1e-4, log=True),
    "freeze": ["embeddings", "none"],
}


def heights(axes: Axes) -> npt.NDArray[np.float64]:
    """The height of each trial's line on each of the parallel axes."""
    trials = [drawn for drawn in axes.collections if isinstance(drawn, LineCollection)]
    segments = np.array([segment for drawn in trials for segment in drawn.get_segments()])
    assert (segments[:, :, 0] == np.arange(segments.shape[1])).all()
    return segments[:, :, 1]


def ticks(axes: Axes, place: int) -> dict[str, float]:
    """The ticks of one of the parallel axes: their texts and heights."""
    return {text.get_text(): text.get_position()[1] for text in axes.texts if round(text.get_position()[0]) == place}


def with_choices(number: int, **choices: config.Scalar) -> TrialRecord:
    return dataclasses.replace(trial(number, 1.0, -0.5), config=choices)


def test_lines() -> None:
    axes = only(parallel.coordinates(SIX_TRIALS, SPACE, SIX_TRIALS[3]))
    assert [label.get_text() for label in axes.get_xticklabels()] == [*SPACE, "gain (%)", "constraint"]
    placed = heights(axes)
    assert placed.shape == (4, 4)  # without the untouched encoder and the failed trial
    assert sorted(placed[:, 0]) == pytest.approx([0.25, 0.5, 0.5, 1.0])  # decades above 1e-8, of four
    assert sorted(height > 0.5 for height in placed[:, 1]) == [False, True, True, True]
    assert placed[:, 2].argsort().tolist() == [1, 2, 3, 0]  # the stopped one is drawn first, and has the largest gain
    assert (placed[:, 2].max(), placed[:, 3].max()) == pytest.approx((1, 1))  # the stopped one, in both
    assert placed.min() >= 0
    winner = lines(axes)["best: trial 3"]
    assert winner[0] == pytest.approx((0.0, 0.5))


def test_choices_are_spread_evenly_and_numbers_ascend() -> None:
    records = [with_choices(k, batch_size=size, freeze=mask) for k, (size, mask) in
               enumerate([(28, "a+b"), (8, "none"), (14, "none"), (8, "none")], start=1)]  # fmt: skip
    axes = only(parallel.coordinates(records, {"batch_size": [28, 8, 14], "freeze": ["none", "a+b"]}, None))
    assert ticks(axes, 0) == pytest.approx({"8": 1 / 6, "14": 3 / 6, "28": 5 / 6})
    assert ticks(axes, 1) == pytest.approx({"a+\nb": 1 / 4, "none": 3 / 4})  # the first choice is on top
    sizes = heights(axes)[:, 0]
    assert sizes == pytest.approx([5 / 6, 1 / 6, 3 / 6, 1 / 6], abs=0.1)
    assert sizes[1] != sizes[3]  # so that two lines do not hide each other


def test_a_range_has_ticks_at_powers_of_ten_or_at_quarters() -> None:
    space: parallel.Space = {
        "learning_rate": config.Range(low=3e-8, high=2e-6, log=True),
        "margin": config.Range(low=0.1, high=0.3),
        "temperature": config.Range(low=0.02, high=0.06, log=True),
    }
    (axes,) = parallel.coordinates(
        [with_choices(1, learning_rate=1e-7, margin=0.15, temperature=0.06)], space, None
    ).axes
    assert list(ticks(axes, 0)) == ["1e-07", "1e-06"]
    assert ticks(axes, 1) == pytest.approx({"0.1": 0, "0.15": 0.25, "0.2": 0.5, "0.25": 0.75, "0.3": 1})
    assert ticks(axes, 2) == pytest.approx({"0.02": 0, "0.06": 1})
    assert heights(axes)[0, :3] == pytest.approx([ticks(axes, 0)["1e-07"], 0.25, 1.0])
