"""What figures share: which trials they show, their files, their names, and axes that hopeless trials do not squash."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from adiabatic_ray.report import figures
from tests.report.sweeps import SIX_TRIALS, part, trial


def test_the_untouched_encoder_and_failed_trials_are_not_shown() -> None:
    assert [record.number for record in figures.measured([*SIX_TRIALS, trial(6, 1, 1, points=())])] == [1, 2, 3, 4]


def test_kinds() -> None:
    rescued = trial(6, 9.0, 0.7, scaled=(part(0.5, 2.0, -1.0, -0.3),))
    kinds = [figures.kind(record) for record in (SIX_TRIALS[2], rescued, trial(7, 9.0, 0.7), SIX_TRIALS[4])]
    assert kinds == ["feasible", "feasible part of the displacement", "infeasible", "stopped early"]
    assert set(kinds) == set(figures.KINDS)


def test_a_figure_is_saved_twice_and_alike_each_time(tmp_path: Path) -> None:
    def save(folder: Path) -> list[Path]:
        folder.mkdir()
        figure = Figure(layout="constrained")
        figure.subplots().plot([1, 2], [3, 4], label="a line")
        return figures.save(figure, folder, "one")

    first, second = save(tmp_path / "first"), save(tmp_path / "second")
    assert [path.name for path in first] == ["one.png", "one.svg"]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes() == second[1].read_bytes()  # no date and no random id


def test_hopeless_values_do_not_squash_the_others() -> None:
    axes = Figure().subplots()
    axes.plot([0, 1, 2], [2.0, -80.0, 0.0])
    figures.stretch(axes, "y", [2.0, 0.0])
    low, good, high = axes.transData.transform([(0, -80.0), (0, 0.0), (0, 2.0)])[:, 1]
    assert (high - good) / (high - low) > 0.2  # a fortieth on a linear axis
    assert axes.get_ylim()[0] < -80
    assert axes.get_ylim()[1] > 2
    assert axes.get_yscale() == "symlog"


def test_values_of_one_size_stay_on_a_linear_axis() -> None:
    axes = Figure().subplots()
    axes.plot([0, 1], [4.0, -5.0])
    figures.stretch(axes, "y", [4.0])
    assert axes.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("embeddings", "embeddings"),
        (3.14159e-7, "3.14e-07"),
        (14, "14"),
        ("a$b$", r"a\$b\$"),
        ("x" * 30 + "y" * 30, "x" * 22 + "…" + "y" * 21),
        ("word " * 20, "word word word word word word word word…"),
    ],
)
def test_short_names(value: object, shown: str) -> None:
    assert figures.short(value) == shown
