"""The leaderboard's files, and figures that hold what they say."""

from __future__ import annotations

import dataclasses
import html.parser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from adiabatic_ray.evaluate import discordance
from adiabatic_ray.report import figures, leaderboard
from adiabatic_ray.report.ledger import Point, Record


def record(number: int, gain: float, constraint: float, rate: float = 1e-6, state: Any = "complete") -> Record:
    p_value = 0.2 if gain < 1 else 0.001
    metrics = {"gain": gain, "constraint": constraint, "p_value": p_value, "worst_language": -gain / 2}
    config = {} if number == 0 else {"learning_rate": rate, "freeze": "embeddings<script>alert(1)</script>"}
    return Record(number, config, state, "", 1.0, 3.5, (Point(8, 3.0, metrics),), "neutral/de/en")


RECORDS = [record(0, 0, -1), record(1, 0.5, -0.6, 1e-7), record(2, 4.0, -0.2), record(3, 20.0, 3.0, 1e-4, "stopped")]


class Cells(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.tags = 0, set[str]()

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self.tags.add(tag)
        self.rows += tag == "tr"


def test_files(tmp_path: Path) -> None:
    leaderboard.write(RECORDS, tmp_path, "a <b> & c")
    table = pd.read_csv(tmp_path / "leaderboard.csv")
    assert table["trial"].tolist() == [2, 1, 0, 3]
    assert table["feasible"].tolist() == [True, True, True, False]
    assert table["standing"].tolist() == ["best", "feasible", "feasible", "stopped"]
    assert table["seconds"].tolist() == [2.5] * 4
    assert table.loc[0, "gain"] == 4.0
    page = Cells()
    page.feed((tmp_path / "leaderboard.html").read_text())
    assert page.rows == 5
    assert not page.tags & {"script", "b"}


def test_a_trial_that_confirmation_refuted_is_not_the_best() -> None:
    refuted = dataclasses.replace(RECORDS[2], confirmation={"gain": 3.0, "p_value": 0.01, "constraint": 0.4})
    confirmed = dataclasses.replace(RECORDS[1], confirmation={"gain": 0.4, "p_value": 0.3, "constraint": -0.5})
    table = leaderboard.table([RECORDS[0], refuted, confirmed])
    assert dict(zip(table["trial"], table["standing"], strict=True)) == {2: "not confirmed", 1: "best", 0: "feasible"}
    assert table.set_index("trial").loc[2, "confirmation_constraint"] == 0.4


def test_gain_and_worst_language(tmp_path: Path) -> None:
    figure = figures.gain_and_worst_language(RECORDS, "msmarco")
    upper, lower = figure.axes
    markers = [[line for line in axes.lines if line.get_marker() != "None"] for axes in (upper, lower)]
    drawn = [
        [(float(line.get_xdata()[0]), float(line.get_ydata()[0]), line.get_color()) for line in lines]
        for lines in markers
    ]
    assert drawn[0] == [(1e-7, 0.5, figures.FEASIBLE), (1e-6, 4.0, figures.FEASIBLE), (1e-4, 20.0, figures.INFEASIBLE)]
    assert [worst for _, worst, _ in drawn[1]] == [-0.25, -2.0, -10.0]
    faces = [line.get_markerfacecolor() for line in markers[0]]
    assert faces == ["none", figures.FEASIBLE, figures.INFEASIBLE]  # the first one's gain is not significant
    assert upper.get_ylabel() == "gain on msmarco (%)"
    assert lower.get_xlabel() == "learning rate"
    assert lower.get_xscale() == "log"
    for axes, values in ((upper, (0.5, 20.0)), (lower, (-10.0, -0.25))):
        low, high = axes.get_ylim()
        assert low < min(values)
        assert max(values) < high
    assert figures.save(figure, tmp_path / "f.png").stat().st_size > 10_000


def test_heat_maps(tmp_path: Path) -> None:
    columns = [*discordance.COLUMNS, *discordance.PAIRED_COLUMNS]
    rows = [
        ["xnli", comparison, x, y, 100, 30, 30.0, 40, 12, 2, improvement, p_value]
        for comparison, improvement, p_value in (("neutral", 25.0, 0.01), ("contradiction", -10.0, 0.5))
        for x in ("de", "en")
        for y in ("de", "en")
    ]
    rows.append(["questions", "negative", "", "", 100, 30, 30.0, 40, 12, 2, 25.0, 0.01])
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "d.csv", index=False)
    figure = figures.improvement_heat_maps(tmp_path / "d.csv", "xnli", "title")
    assert figure is not None
    neutral, contradiction = figure.axes[:2]
    assert neutral.images[0].get_array().tolist() == [[25.0, 25.0], [25.0, 25.0]]
    assert contradiction.images[0].get_array().tolist() == [[-10.0, -10.0], [-10.0, -10.0]]
    assert (len(neutral.lines), len(contradiction.lines)) == (4, 0)  # dots where significant
    assert [label.get_text() for label in neutral.get_yticklabels()] == ["de", "en"]
    assert figures.improvement_heat_maps(tmp_path / "d.csv", "questions", "title") is None


@pytest.mark.parametrize(("value", "shown"), [(3.14159e-7, "3.14e-07"), (14, "14"), ("none", "none"), (None, "None")])
def test_numbers_for_people(value: Any, shown: str) -> None:
    assert leaderboard.show(value) == shown
