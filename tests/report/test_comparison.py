"""Sweeps side by side, against scipy's tests of the same outcomes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from scipy import stats
from torch import Tensor

from adiabatic_ray import cli, config, errors
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report import comparison
from adiabatic_ray.trials.store import TrialStore
from tests import sweeps
from tests.records import checked, record

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BASE = torch.arange(400) < 200  # discordant triplets
EVIL = "<script>window.hacked = 1</script>"


def tuned(fixed: int, broken: int) -> Tensor:
    """So many of the first triplets are fixed, and so many of the last broken."""
    outcome = BASE.clone()
    outcome[:fixed] = False
    outcome[400 - broken :] = True
    return outcome


def store(folder: Path, name: str, outcome: Tensor, *, base: Tensor = BASE, rate: float = 1e-6) -> TrialStore:
    train = dataclasses.replace(sweeps.MINIMAL.train, learning_rate=rate)
    made = TrialStore.create(folder / name, dataclasses.replace(sweeps.MINIMAL, name=name, train=train))
    made.put(record(0, 0.0, -1.0, config={}))
    made.put(record(1, 5.0, confirmations=checked({"gain": 4.0, "constraint": -0.2})))
    for number, values in ((0, base), (1, outcome)):
        outcomes.save(made.folder.trial(number).confirmation_outcomes, Outcomes({1.0: {"questions": values}}, {}))
    return made


def test_winners_are_compared_on_the_same_sets(tmp_path: Path) -> None:
    first = store(tmp_path, "first", tuned(50, 10))
    second = store(tmp_path, "second", tuned(70, 5), rate=3e-6)
    other = store(tmp_path, "other", tuned(70, 5), base=~BASE)
    compared = comparison.compare([first, second, other])
    assert compared.sweeps == ["first", "second", "other"]
    assert compared.settings == [("train.learning_rate", ["1e-06", "3e-06", "1e-06"])]
    same, not_the_same = compared.paired
    # Of the 160 that the first leaves wrong, the second puts 25 right.
    assert same.improvement == pytest.approx(100 * 25 / 160)
    assert same.p_value == pytest.approx(stats.binomtest(0, 25).pvalue)
    assert (not_the_same.improvement, not_the_same.reason) == (
        None,
        "the sets, or the untouched encoders, are not the same",
    )
    with pytest.raises(errors.SweepError, match="name two sweeps or more"):
        comparison.compare([first])


def test_the_terminal_and_the_page_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], browser: Browser
) -> None:
    first, second = store(tmp_path, "first", tuned(50, 10)), store(tmp_path, "second", tuned(70, 5))
    nothing = TrialStore.create(
        tmp_path / "nothing", dataclasses.replace(sweeps.MINIMAL, name="nothing", model=config.Model(name=EVIL))
    )
    folders = [str(one.folder.path) for one in (first, second, nothing)]
    assert cli.main(["compare", *folders, "--out", str(tmp_path / "pages" / "compared.html")]) == 0
    said = capsys.readouterr().out
    assert "second: trial 1, gain +5.00%, +4.00% confirmed" in said
    assert re.search(r"second +questions +\+15.62% +6.0e-08", said)
    assert re.search(r"nothing +one of them hands over nothing", said)
    assert re.search(rf"  model\.name: .+; .+; {re.escape(EVIL)}\n", said)
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto((tmp_path / "pages" / "compared.html").as_uri())
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#paired tbody tr").first.inner_text().split("\t") == [
        "second",
        "questions",
        "+15.62%",
        "6e-08",
    ]
    assert EVIL in page.locator("#settings").inner_text()
    page.close()
