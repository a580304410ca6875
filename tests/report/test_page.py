"""The report's page in a real browser: its numbers, its table, and texts that try to be markup."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report import page
from adiabatic_ray.report.evidence import Evidence
from adiabatic_ray.report.ledger import OUTCOMES, Candidate, Ledger, Point, Record, best
from adiabatic_ray.report.regime import Change, Regime

EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>\"&"
MASKS = ("embeddings", "embeddings+output.dense.weight")
LANGUAGES = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]
IMPORTANCES = {
    "gain": {"learning_rate": 0.71, "freeze": 0.12, "batch_size": 0.1, "margin": 0.07},
    "constraint": {"learning_rate": 0.83, "freeze": 0.1, "batch_size": 0.02, "margin": 0.05},
}
SETTINGS: dict[str, Any] = {
    "name": "pilot",
    "model": {"name": "intfloat/multilingual-e5-small"},
    "train": {"freeze": "embeddings", "learning_rate": 2e-8},
    "evaluate": {"selection": {"msmarco": {}, "xnli": {}, "arxiv": {}}, "confirmation": {"msmarco": {}, "xnli": {}}},
    "search": {
        "objective": "msmarco",
        "space": {
            "learning_rate": {"low": 1e-8, "high": 1e-5, "log": True, "step": None},
            "freeze": list(MASKS),
            "batch_size": [8, 14, 28],
            "margin": {"low": 0.05, "high": 0.2, "log": False, "step": None},
        },
    },
    "constraint": {"data": "xnli", "alpha": 0.05, "margin": 1.0, "level": "pair"},
    "seed": 0,
}


def metrics(rate: float, noise: float, share: float = 1.0) -> dict[str, float]:
    """What a trial might measure: gains first grow with the rate, and then the languages fall apart."""
    reach = share * rate / 2e-7
    gain = 14 * math.tanh(reach) + 1.5 * noise * min(1, reach) - 3 * max(0.0, reach - 8)
    xnli = 0.8 * math.tanh(3 * reach) - 0.35 * reach**1.4 + 0.1 * noise
    return {
        "gain": gain,
        "p_value": 10 ** (-abs(gain)),
        "improvement/msmarco": gain,
        "p_value/msmarco": 10 ** (-abs(gain)),
        "improvement/xnli": xnli,
        "improvement/xnli/de": xnli - 0.5,
        "improvement/arxiv": gain / 3 - 0.5 * reach,
        "p_value/arxiv": 0.04 if reach > 0.5 else 0.4,
        "constraint": 0.6 * reach - 1 + 0.1 * noise,
        "constraint/worst_z": 2 + reach,
        "constraint/upper": 0.4 * reach,
        "worst_language": xnli - 0.5 - 0.1 * reach,
    }


def trial(number: int, random: np.random.Generator, rates: list[float] | None = None) -> Record:
    rate = rates[(number - 1) % len(rates)] if rates else 10 ** random.uniform(-8, -5)
    config = {
        "learning_rate": rate,
        "freeze": MASKS[number % 2],
        "batch_size": int(random.choice([8, 14, 28])),
        "margin": float(random.uniform(0.05, 0.2)),
    }
    noise = float(random.normal())
    found = metrics(rate / (1 + number % 2), noise)
    points = (Point(40, 3.0, found),)
    made = Record(number, config, "complete", "", 1.0, 100.5 + number, points, "neutral/sw/de")
    if number % 23 == 11:
        return dataclasses.replace(made, state="out_of_memory", reason="CUDA out of memory at step 3", points=())
    if found["constraint"] > 4:
        return dataclasses.replace(made, state="stopped", reason="significantly harmful at step 40 of 80")
    scaled = [Candidate(s, metrics(rate / (1 + number % 2), noise, s), "neutral/sw/de") for s in (0.25, 0.5, 0.75)]
    return dataclasses.replace(made, scaled=tuple(scaled))


def sweep(folder: Path, count: int, rates: list[float] | None = None, **settings: Any) -> Ledger:
    """A sweep as it lies in its folder, with the outcomes of the untouched encoder and of the best trial."""
    ledger = Ledger.create(folder / "sweep", SETTINGS | settings)
    random = np.random.default_rng(5)
    untouched = metrics(0.0, 0.0) | {"constraint": -1.0}
    records = [Record(0, {}, "complete", "", 1.0, 2.0, (Point(0, 1.0, untouched),), "neutral/ar/ar")]
    for record in [*records, *(trial(number, random, rates) for number in range(1, count + 1))]:
        ledger.records[record.number] = record
    return ledger


def keep_outcomes(ledger: Ledger) -> tuple[torch.Tensor, torch.Tensor]:
    """Outcomes of trial 0 and of the winner at its scale."""
    winner = best(ledger.records.values())
    assert winner is not None
    assert winner.candidate is not None
    random = torch.Generator().manual_seed(0)
    size = (400, 2, len(LANGUAGES), len(LANGUAGES))
    base = torch.rand(size, generator=random) < 0.25
    drift = torch.linspace(-0.01, 0.03, len(LANGUAGES))[:, None]
    tuned = base ^ (torch.rand(size, generator=random) < torch.where(base, 0.12, 0.02 + 0.3 * drift.clamp(min=0)))
    for number, scale, found in ((0, 1.0, base), (winner.number, winner.candidate.scale, tuned)):
        ledger.trial_folder(number).mkdir(parents=True)
        path = ledger.trial_folder(number) / OUTCOMES
        outcomes.save(path, Outcomes({scale: {"xnli": found}}, {"xnli": LANGUAGES}))
    return base, tuned


def evidence(ledger: Ledger, **changes: Any) -> Evidence:
    def around(record: Record) -> dict[str, Interval]:
        sets = ("msmarco", "xnli", "arxiv")
        values = {name: record.metrics[f"improvement/{name}"] for name in sets}
        return {name: Interval(v, v - 1 - 0.1 * abs(v), v + 1 + 0.1 * abs(v)) for name, v in values.items()}

    shown = [record for record in ledger.records.values() if record.number and record.points]
    rates = tuple(sorted({record.config["learning_rate"] for record in shown}))
    winner = best(ledger.records.values())
    made = Evidence(
        {record.number: around(record) for record in shown},
        {"msmarco": Interval(7.5, 6.25, 8.75)} if winner else {},
        {"msmarco": Interval(6.5, 5.125, 7.875)} if winner and winner.confirmation else {},
        [
            Regime(MASKS[0], rates, 9, Change(3e-7, 4e-7, 2.5e-7, 5e-7), Change(2e-8, 5e-8, None, 6e-8), "holds <b>"),
            Regime(MASKS[1], rates, 8, Change(6e-7, 8e-7, 4e-7, None), None, "not so sure"),
        ],
        [],
    )
    return dataclasses.replace(made, **changes)


def confirm(ledger: Ledger, constraint: float, **changes: Any) -> Record:
    """Confirm the best trial."""
    winner = best(ledger.records.values())
    assert winner is not None
    found = {"gain": 6.5, "p_value": 0.0021, "p_value/msmarco": 0.0021, "improvement/msmarco": 6.5}
    confirmation = found | {"constraint": constraint, "constraint/worst_z": 3.21, "improvement/xnli": 0.12}
    ledger.records[winner.number] = dataclasses.replace(winner, confirmation=confirmation, **changes)
    return ledger.records[winner.number]


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Open a page; when the test is over, it must have had no trouble and have asked for nothing but itself."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    troubles: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: troubles.append(message.text))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))

    def go(path: Path) -> Any:
        tab.goto(path.as_uri())
        return tab

    yield go
    assert troubles == []
    assert len([url for url in requests if not url.startswith("data:")]) == 1
    tab.close()


def column(tab: Any, name: str) -> list[str]:
    place = tab.locator("#trials-table th button").all_inner_texts().index(name)
    return list(tab.locator(f"#trials-table tbody tr:visible td:nth-child({place + 1})").all_inner_texts())


def test_a_sweep_of_which_no_outcomes_can_be_read_still_has_its_page(tmp_path: Path) -> None:
    ledger = sweep(tmp_path, 8)
    nothing = evidence(ledger, improvements={}, selection={}, confirmation={}, regimes=[], damaged=[*range(1, 9)])
    content = html.unescape(page.write(ledger, nothing, IMPORTANCES)[0].read_text())
    assert "There are no curves: no trial's outcomes can be read." in content
    assert "Outcomes that cannot be read: trials\n1, 2, 3, 4, 5, 6, 7, 8." in content


def test_the_winner_is_told_with_its_numbers(tmp_path: Path, visit: Any) -> None:
    ledger = sweep(tmp_path, 16)
    repeats = tuple({"seed": s, "gain": g, "p_value": 0.01, "constraint": c} for s, g, c in
                    ((1, 6.0, -0.2), (2, 7.0, -0.1), (3, 8.0, 0.3)))  # fmt: skip
    winner = confirm(ledger, -0.31, repeats=repeats)
    keep_outcomes(ledger)
    written = page.write(ledger, evidence(ledger, damaged=[5]), IMPORTANCES)
    names = ("heat_maps", "curves", "rates", "worst_language", "history", "parallel", "importances")
    files = {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {str(path.relative_to(ledger.folder)) for path in written} == {"report.html", "leaderboard.csv", *files}
    assert all(path.stat().st_size > 1000 for path in written)

    tab = visit(written[0])
    assert winner.candidate is not None
    text = tab.locator("#summary").inner_text()
    assert f"Trial {winner.number}" in tab.locator(".verdict").inner_text()
    assert f"{winner.candidate.gain:+.2f}% [+6.25, +8.75]" in text
    assert "+6.50% [+5.12, +7.88]" in text
    assert "0.0021" in text
    assert "sw query, de texts, neutral" in text
    assert "2 of 3 stayed feasible; mean gain +7.00%, standard deviation 1.00 (+6.00% to +8.00%)" in text
    assert "Outcomes that cannot be read: trial 5." in text
    assert "between 3e-07 and 4e-07" in text
    assert "95%: 2.5e-07 to 5e-07" in text
    assert "not identified" in text
    assert "holds <b>" in text
    states = [record.state for record in ledger.records.values() if record.number]
    header = tab.locator("header").inner_text()
    assert (
        f"16 trials beside the untouched encoder: {sum(r.feasible for r in ledger.records.values()) - 1} fea" in header
    )
    assert f"{states.count('stopped')} stopped early as harmful, {states.count('out_of_memory')} failed" in header
    # Every picture is there, in words too.
    images = tab.locator("img")
    assert images.count() == len(names)
    assert all(
        images.nth(i).evaluate("one => one.naturalWidth > 300 && one.alt.length > 20") for i in range(len(names))
    )


def test_the_table_sorts_by_number_and_filters(tmp_path: Path, visit: Any) -> None:
    ledger = sweep(tmp_path, 30)
    tab = visit(page.write(ledger, evidence(ledger), {})[0])
    rows = tab.locator("#trials-table tbody tr")
    assert rows.count() == 31
    assert tab.locator("tr.best").count() == 1

    expected = pd.read_csv(ledger.folder / "leaderboard.csv")
    assert tab.locator("#trials-table th button").all_inner_texts() == list(expected.loc[:, :"reason"].columns)
    for name in ("trial", "gain", "learning_rate", "seconds"):
        for ascending in (True, False):
            tab.get_by_role("button", name=name, exact=True).press("Enter")  # as from a keyboard
            ordered = expected.sort_values(name, ascending=ascending, kind="stable")[name].dropna()
            shown = [float(text) for text in column(tab, name) if text]
            assert shown == pytest.approx(ordered.tolist(), rel=6e-3)
            assert all(text == "" for text in column(tab, name)[len(ordered) :])  # the unmeasured come last
    assert tab.locator("th[aria-sort=descending]").count() == 1
    tab.get_by_role("button", name="place", exact=True).click()
    assert column(tab, "place") == [str(place) for place in range(1, 32)]  # as texts, 10 would come before 2

    tab.get_by_label("Show rows that contain").fill("STOPPED")
    stopped = int((expected["state"] == "stopped").sum())
    assert 0 < stopped < 31
    assert tab.locator("#trials-table tbody tr:visible").count() == stopped
    assert tab.locator("#shown").inner_text() == f"{stopped} of 31"
    assert set(column(tab, "standing")) == {"stopped"}


def test_texts_stay_texts(tmp_path: Path, visit: Any) -> None:
    ledger = sweep(tmp_path, 12, name=EVIL)
    for number in (1, 2, 3):
        record = ledger.records[number]
        config = record.config | {"freeze": MASKS[0] + EVIL}
        ledger.records[number] = dataclasses.replace(record, reason=EVIL, config=config, worst=EVIL)
    ledger.settings["search"] = SETTINGS["search"] | {
        "space": SETTINGS["search"]["space"] | {"freeze": [*MASKS, MASKS[0] + EVIL]}
    }
    regimes = [dataclasses.replace(evidence(ledger).regimes[0], mask=EVIL, verdict=EVIL)]
    keep_outcomes(ledger)
    tab = visit(page.write(ledger, evidence(ledger, regimes=regimes), {"gain": {EVIL: 1.0}})[0])
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("script").count() == 1
    assert tab.locator("img").count() == 7
    assert tab.locator("h1").inner_text() == f"{EVIL}: sweep report"
    assert tab.title() == f"{EVIL}: sweep report"
    assert column(tab, "reason").count(EVIL) == 3
    assert column(tab, "freeze").count(MASKS[0] + EVIL) == 3
    assert EVIL in tab.locator("#regimes").inner_text()
    assert all("<script" not in path.read_text() for path in (ledger.folder / "figures").glob("*.svg"))


def test_nothing_is_feasible(tmp_path: Path, visit: Any) -> None:
    ledger = sweep(tmp_path, 8)
    for number, record in ledger.records.items():
        if number and record.points:
            bad = record.metrics | {"constraint": 0.5 + number, "constraint/worst_z": 4.25}
            points = (dataclasses.replace(record.points[0], metrics=bad),)
            ledger.records[number] = dataclasses.replace(record, points=points, scaled=())
    tab = visit(page.write(ledger, evidence(ledger), {})[0])
    text = tab.locator(".verdict").inner_text()
    assert text.startswith("No trial is feasible")
    assert "The least infeasible one is trial 1 (learning_rate" in text
    assert "constraint +1.50" in text
    assert "worst pair sw query, de texts, neutral with z = +4.25" in text
    assert tab.locator("#measured").count() == 0
    assert tab.locator("#figure-heat_maps").inner_text() == "There are no heat maps: no trial is handed over."
    assert "Nothing is feasible" in tab.locator("#figure-worst_language").inner_text()
    assert "Importances are not known" in tab.locator("#figure-importances").inner_text()


def test_confirmation_refuted_all(tmp_path: Path, visit: Any) -> None:
    ledger = sweep(tmp_path, 16)
    first = confirm(ledger, 0.75)
    assert best(ledger.records.values()) is None
    tab = visit(page.write(ledger, evidence(ledger), {})[0])
    text = tab.locator(".verdict").inner_text()
    assert "confirmation refuted every trial" in text
    assert f"trial {first.number}, its constraint there is +0.75 (feasible at 0 or below)" in text


def test_nothing_feasible_is_better_than_the_untouched_encoder(tmp_path: Path, visit: Any) -> None:
    ledger = sweep(tmp_path, 12)
    complete = [record for record in ledger.records.values() if record.state == "complete"]
    for record in complete[1:]:
        poor = {**record.metrics, "gain": -1.0 - record.number, "constraint": -0.5}
        ledger.records[record.number] = dataclasses.replace(record, points=(Point(8, 2.0, poor),), scaled=())
    assert best(ledger.records.values()) is None
    tab = visit(page.write(ledger, evidence(ledger), {})[0])
    text = tab.locator(".verdict").inner_text()
    assert "No feasible trial is better on msmarco than the untouched encoder" in text
    assert f"The best of them is trial {complete[1].number} (" in text
    # The untouched encoder, which was tried with nothing, comes first; the columns of what the others were tried with
    # are there all the same.
    shown = tab.locator("#trials-table th button").all_inner_texts()
    assert {"learning_rate", "margin"} <= set(shown)
    assert all(column(tab, "learning_rate")[1 : len(complete)])


def test_without_confirmation(tmp_path: Path, visit: Any) -> None:
    settings = SETTINGS["evaluate"] | {"confirmation": {}}
    ledger = sweep(tmp_path, 16, evaluate=settings)
    tab = visit(page.write(ledger, evidence(ledger), {})[0])
    assert "The sweep has no confirmation sets" in tab.locator(".verdict").inner_text()
    confirmed = tab.locator("#measured tbody td:nth-child(3)").all_inner_texts()
    assert len(confirmed) > 5
    assert set(confirmed) == {"–"}
    assert "cannot be read" in tab.locator("#figure-heat_maps").inner_text()  # no outcomes were kept here


def test_a_sweep_that_fixes_the_learning_rate(tmp_path: Path) -> None:
    space = {"margin": SETTINGS["search"]["space"]["margin"]}
    ledger = sweep(tmp_path, 6, search={"objective": "msmarco", "space": space})
    (ledger.folder / "figures").mkdir()
    (ledger.folder / "figures" / "curves.svg").write_text("from an earlier report")
    written = page.write(ledger, evidence(ledger, regimes=[]), {})
    assert "the learning rate was not searched, it is 2e-08 throughout" in written[0].read_text()
    assert not (ledger.folder / "figures" / "curves.svg").exists()


def test_a_sweep_without_trials(tmp_path: Path) -> None:
    ledger = sweep(tmp_path, 0)
    text = page.write(ledger, Evidence({}, {}, {}, [], []), {})[0].read_text()
    assert "No trial has run yet." in text
    assert "0 trials beside the untouched encoder" in text


def test_a_thousand_trials(tmp_path: Path, visit: Any) -> None:
    ledger = sweep(tmp_path, 1000)
    keep_outcomes(ledger)
    written = page.write(ledger, evidence(ledger), IMPORTANCES)
    assert written[0].stat().st_size < 10_000_000
    assert len(re.findall(r"<tr[ >]", written[0].read_text())) > 1001
    tab = visit(written[0])
    tab.get_by_role("button", name="gain", exact=True).click()
    gains = [float(text) for text in column(tab, "gain") if text]
    assert len(gains) > 900
    assert gains == sorted(gains)
