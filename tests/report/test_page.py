"""The report's page: its texts, and in a real browser its numbers, its table, and texts that try to be markup."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from adiabatic_ray import config, storage
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report import page
from adiabatic_ray.trials import naming
from adiabatic_ray.trials.record import Evaluation, TrialRecord, best
from adiabatic_ray.trials.store import TrialStore
from tests.report.pages import IMPORTANCES, confirm, evidence, keep_outcomes, text_of
from tests.report.pointing import place_of, point_at
from tests.report.sweeps import MASKS, PILOT, in_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    Visit = Callable[[Path], Page]

EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked=1'>\"&"


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open a page; when the test is over, it must have had no trouble and have asked for nothing but itself."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    troubles: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: troubles.append(message.text))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))

    def go(path: Path) -> Page:
        tab.goto(path.as_uri())
        return tab

    yield go
    assert troubles == []
    assert len([url for url in requests if not url.startswith("data:")]) == 1
    tab.close()


def column(tab: Page, name: str) -> list[str]:
    place = tab.locator("#trials-table th button").all_inner_texts().index(name)
    return list(tab.locator(f"#trials-table tbody tr:visible td:nth-child({place + 1})").all_inner_texts())


class Observed(TrialStore):
    """A store that notes whether the report's lock is held whenever it is asked for the finished trials."""

    held: list[bool]

    def finished(self) -> list[TrialRecord]:
        self.held.append(storage.held(self.folder.report_lock))
        return super().finished()


def test_the_report_is_written_from_the_folder_alone_and_by_one_process_at_a_time(tmp_path: Path) -> None:
    store = in_folder(tmp_path, 12, [3e-8, 1e-7, 3e-7])
    random = torch.Generator().manual_seed(0)
    shapes = {"msmarco": (60,), "xnli": (20, 2, 2, 2), "arxiv": (60,)}
    for record in store.records.values():
        store.put(record)
        outcome = {name: torch.rand(shape, generator=random) < 0.3 for name, shape in shapes.items()}
        scales = (0.25, 0.5, 0.75, 1.0) if record.number else (1.0,)
        outcomes.save(
            store.folder.trial(record.number).outcomes,
            Outcomes(dict.fromkeys(scales, outcome), {"xnli": ["de", "en"]}),
        )
    observed = Observed(store.folder.path)
    observed.held = []
    written = page.write(observed)
    assert written[0] == store.folder.report
    assert observed.held
    assert all(observed.held)
    assert not storage.held(store.folder.report_lock)
    # Intervals, regimes and importances were computed from what lies there.
    assert re.search(r"% \[[+-]", text_of(written[0], '<table class="plain" id="measured"'))
    regimes = re.findall(r"(\d+), at (\d+) rates", text_of(written[0], '<table class="plain" id="regimes"'))
    assert regimes == [("5", "3"), ("6", "3")]  # one trial ran out of memory
    assert store.folder.figures / "importances.svg" in written


def test_the_winner_is_told_with_its_numbers(tmp_path: Path, visit: Visit) -> None:
    store = in_folder(tmp_path, 16)
    repeats = tuple({"seed": s, "gain": g, "p_value": 0.01, "constraint": c} for s, g, c in
                    ((1, 6.0, -0.2), (2, 7.0, -0.1), (3, 8.0, 0.3)))  # fmt: skip
    winner = confirm(store, -0.31, repeats=repeats)
    keep_outcomes(store)
    written = page.write_from(store, evidence(store, damaged=[5]), IMPORTANCES)
    names = (
        "heat_maps",
        "by_language",
        "curves",
        "rates",
        "worst_language",
        "history",
        "parallel",
        "importances",
    )  # no profiles
    files = {store.folder.figures / f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert set(written) == {store.folder.report, store.folder.leaderboard, *files}
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
    states = [record.state for record in store.records.values() if record.number]
    header = tab.locator("header").inner_text()
    assert (
        f"16 trials beside the untouched encoder: {sum(r.feasible for r in store.records.values()) - 1} fea" in header
    )
    assert f"{states.count('stopped')} stopped early, {states.count('out_of_memory')} failed" in header
    # Every picture is there, in words too.
    images = tab.locator("img")
    assert images.count() == len(names)
    assert all(
        images.nth(i).evaluate("one => one.naturalWidth > 300 && one.alt.length > 20") for i in range(len(names))
    )
    caption = tab.locator("#figure-heat_maps").inner_text()
    assert "Selection sets, 400 premises or queries of xnli." in caption
    assert "Passages are compared by Euclidean distances." in caption


def test_the_table_sorts_by_number_and_filters(tmp_path: Path, visit: Visit) -> None:
    store = in_folder(tmp_path, 30)
    tab = visit(page.write_from(store, evidence(store), {})[0])
    rows = tab.locator("#trials-table tbody tr")
    assert rows.count() == 31
    assert tab.locator("tr.best").count() == 1

    expected = pd.read_csv(store.folder.leaderboard)
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


def test_texts_stay_texts(tmp_path: Path, visit: Visit) -> None:
    space = PILOT.search.space | {"freeze": [*MASKS, MASKS[0] + EVIL]}
    search = dataclasses.replace(PILOT.search, space=space)
    store = in_folder(tmp_path, 12, model=config.Model(name=EVIL), search=search)
    for number in (1, 2, 3):
        record = store.records[number]
        chosen = {**record.config, "freeze": MASKS[0] + EVIL}
        store.records[number] = dataclasses.replace(record, reason=EVIL, config=chosen, worst=EVIL)
    regimes = [dataclasses.replace(evidence(store).regimes[0], mask=EVIL)]
    keep_outcomes(store)
    tab = visit(page.write_from(store, evidence(store, regimes=regimes), {"gain": {EVIL: 1.0}})[0])
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("script:not([type])").count() == 3  # the table's, Vega, and the pointer's
    assert tab.locator("img").count() == 8
    tab.wait_for_selector("#figure-parallel.live")
    for name in ("rates", "parallel"):
        point_at(tab, name, 2)
        assert MASKS[0] + EVIL in tab.locator("#vg-tooltip-element").inner_text()
    tab.get_by_role("button", name="Trial 2", exact=True).click()
    assert EVIL in tab.locator("tr.detail").inner_text()
    assert tab.evaluate("window.hacked") is None
    assert f"Query encoder of {EVIL}, tuned" in tab.locator("header").inner_text()
    assert tab.title() == "pilot: sweep report"
    assert column(tab, "reason").count(EVIL) == 3
    assert column(tab, "freeze").count(MASKS[0] + EVIL) == 3
    assert EVIL in tab.locator("#regimes").inner_text()
    assert all("<script" not in path.read_text() for path in store.folder.figures.glob("*.svg"))


def test_nothing_is_feasible(tmp_path: Path, visit: Visit) -> None:
    store = in_folder(tmp_path, 8)
    for number, record in store.records.items():
        if number and record.points:
            bad = {**record.metrics, "constraint": 0.5 + number, "constraint/worst_z": 4.25}
            points = (dataclasses.replace(record.points[0], metrics=bad),)
            store.records[number] = dataclasses.replace(record, points=points, scaled=())
    tab = visit(page.write_from(store, evidence(store), {})[0])
    text = tab.locator(".verdict").inner_text()
    assert text.startswith("No trial is feasible")
    assert "The least infeasible one is trial 1 (learning_rate" in text
    assert "constraint +1.50" in text
    assert "worst pair sw query, de texts, neutral with z = +4.25" in text
    assert tab.locator("#measured").count() == 0
    assert tab.locator("#figure-heat_maps").inner_text() == "There are no heat maps: no trial is handed over."
    assert "Nothing is feasible" in tab.locator("#figure-worst_language").inner_text()
    assert "Importances are not known" in tab.locator("#figure-importances").inner_text()


def test_nothing_feasible_is_better_than_the_untouched_encoder(tmp_path: Path, visit: Visit) -> None:
    store = in_folder(tmp_path, 12)
    complete = [record for record in store.records.values() if record.state == "complete"]
    for record in complete[1:]:
        poor = {**record.metrics, "gain": -1.0 - record.number, "constraint": -0.5}
        store.records[record.number] = dataclasses.replace(record, points=(Evaluation(8, 2.0, poor),), scaled=())
    assert best(store.records.values()) is None
    tab = visit(page.write_from(store, evidence(store), {})[0])
    text = tab.locator(".verdict").inner_text()
    assert "No feasible trial is better on msmarco than the untouched encoder" in text
    assert f"The best of them is trial {complete[1].number} (" in text
    # The untouched encoder, which was tried with nothing, comes first; the columns of what the others were tried with
    # are there all the same.
    shown = tab.locator("#trials-table th button").all_inner_texts()
    assert {"learning_rate", "margin"} <= set(shown)
    assert all(column(tab, "learning_rate")[1 : len(complete)])


def test_without_confirmation(tmp_path: Path, visit: Visit) -> None:
    store = in_folder(tmp_path, 16, evaluate=dataclasses.replace(PILOT.evaluate, confirmation={}))
    tab = visit(page.write_from(store, evidence(store), {})[0])
    assert "The sweep has no confirmation sets" in tab.locator(".verdict").inner_text()
    confirmed = tab.locator("#measured tbody td:nth-child(3)").all_inner_texts()
    assert len(confirmed) > 5
    assert set(confirmed) == {"–"}
    assert "cannot be read" in tab.locator("#figure-heat_maps").inner_text()  # no outcomes were kept here


def test_charts_answer_the_pointer(tmp_path: Path, visit: Visit) -> None:
    store = in_folder(tmp_path, 16)
    winner = confirm(store, -0.31)
    keep_outcomes(store)
    tab = visit(page.write_from(store, evidence(store), IMPORTANCES)[0])
    tab.wait_for_selector("#figure-parallel.live")
    names = ("heat_maps", "by_language", "curves", "rates", "worst_language", "history", "parallel", "importances")
    assert tab.locator("figure.live").count() == len(names)
    for name in names:  # a chart instead of the figure, with the figure's words
        assert not tab.locator(f"#figure-{name} img").is_visible()
        about = tab.locator(f"#figure-{name} canvas").first.get_attribute("aria-label")
        assert about == tab.locator(f"#figure-{name} img").get_attribute("alt")
    stopped = next(record for record in store.records.values() if record.state == "stopped")
    for record in (winner, stopped):
        for name in ("history", "curves", "rates"):
            point_at(tab, name, record.number)
            said = tab.locator("#vg-tooltip-element").inner_text()
            assert f"{record.number}: " in said
            assert f"{record.metrics['gain']:+.2f}%" in said
            assert f"{record.metrics['constraint']:+.2f}" in said
            assert naming.show(record.config["learning_rate"]) in said
    # All charts that are seen point to it.
    point_at(tab, "rates", winner.number)
    assert tab.evaluate("[...views.values()].filter(view => view.signal('focus') === focus).length") > 1
    interval = evidence(store).improvements[winner.number]["msmarco"]
    point_at(tab, "history", winner.number)
    said = tab.locator("#vg-tooltip-element").inner_text()
    assert f"[{interval.low:+.2f}, {interval.high:+.2f}]" in said
    assert "+6.50%" in said  # confirmed
    # What is printed are the figures.
    tab.emulate_media(media="print")
    assert tab.locator("#figure-history img").is_visible()
    assert not tab.locator("#figure-history canvas").is_visible()


def test_every_chart_has_a_table_of_its_numbers(tmp_path: Path, visit: Visit) -> None:
    store = in_folder(tmp_path, 16)
    winner = confirm(store, -0.31)
    keep_outcomes(store)
    tab = visit(page.write_from(store, evidence(store), IMPORTANCES)[0])
    measured = [record for record in store.records.values() if record.number and record.points and not record.failed]
    stored = outcomes.load(store.folder.trial(winner.number).outcomes)
    base = outcomes.load(store.folder.trial(0).outcomes)
    assert stored is not None
    assert base is not None
    assert winner.candidate is not None
    for name in ("history", "rates", "parallel", "curves"):
        tab.locator(f"#figure-{name} summary").click()
        tab.wait_for_selector(f"#figure-{name} tbody")
        rows = tab.locator(f"#figure-{name} tbody tr")
        assert rows.count() == len(measured)
        (row,) = [text for text in rows.all_inner_texts() if text.startswith(f"{winner.number}:") or "best:" in text]
        assert f"{winner.metrics['gain']:+.2f}%" in row
        assert naming.show(winner.config["learning_rate"]) in row
    assert f"{winner.metrics['improvement/arxiv']:+.2f}%" in row  # of `curves`
    tab.locator("#figure-importances summary").click()
    tab.wait_for_selector("#figure-importances tbody")
    shown = [text.split("\t") for text in tab.locator("#figure-importances tbody tr").all_inner_texts()]
    expected = {(f"the {of}", name, f"{share:.2f}") for of, all_ in IMPORTANCES.items() for name, share in all_.items()}
    assert {tuple(row) for row in shown} == expected
    tab.locator("#figure-heat_maps summary").click()
    tab.wait_for_selector("#figure-heat_maps tbody")
    rows = tab.locator("#figure-heat_maps tbody tr")
    assert rows.count() == 2 * 15 * 15
    one = stored.evidence("xnli", winner.candidate.scale, base)
    assert one is not None
    before, after = (int(values[:, 1, 0, 2].sum()) for values in (one.base, one.tuned))
    (row,) = [
        text for text in rows.all_inner_texts() if text.startswith("xnli: entailment against contradiction\tar\tde")
    ]
    assert f"{100 * (before - after) / before:+.2f}%" in row


def test_what_is_infinite_is_left_out_of_the_charts(tmp_path: Path, visit: Visit) -> None:
    """A language in which only the tuned encoder makes mistakes is infinitely worse."""
    store = in_folder(tmp_path, 8)
    record = store.records[3]
    metrics = {**record.metrics, "worst_language": -math.inf, "improvement/xnli/de": -math.inf}
    store.records[3] = dataclasses.replace(record, points=(Evaluation(8, 2.0, metrics),))
    tab = visit(page.write_from(store, evidence(store), {})[0])
    tab.wait_for_selector("#figure-parallel.live")
    point_at(tab, "history", 3)
    assert "-inf%" in tab.locator("#vg-tooltip-element").inner_text()


def test_a_trial_opens(tmp_path: Path, visit: Visit) -> None:
    store = in_folder(tmp_path, 16)
    first = next(record for record in store.records.values() if record.number and record.candidate)
    earlier = Evaluation(4, 1.0, {key: value / 2 for key, value in first.metrics.items()})
    store.records[first.number] = dataclasses.replace(first, points=(earlier, *first.points))
    tab = visit(page.write_from(store, evidence(store), {})[0])
    button = tab.get_by_role("button", name=f"Trial {first.number}", exact=True)
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    tab.wait_for_selector("tr.detail canvas")
    said = tab.locator("tr.detail").inner_text()
    assert first.candidate is not None
    assert f"learning_rate {first.config['learning_rate']}" in said
    assert f"de {first.candidate.metrics['improvement/xnli/de']:+.2f}%" in said
    assert f"adiabatic-ray export sweep encoder --trial {first.number}" in said
    tab.get_by_role("button", name="gain", exact=True).click()  # sorting closes it
    assert tab.locator("tr.detail").count() == 0
    button.click()
    button.click()
    assert tab.locator("tr.detail").count() == 0
    # A click on its mark opens it too.
    tab.wait_for_selector("#figure-history.live")
    tab.mouse.click(*place_of(tab, "history", first.number))
    tab.wait_for_selector("tr.detail")
    assert f"Trial {first.number}" in tab.locator("tr.detail").inner_text()


@pytest.mark.slow
def test_a_thousand_trials(tmp_path: Path, visit: Visit) -> None:
    store = in_folder(tmp_path, 1000)
    keep_outcomes(store)
    written = page.write_from(store, evidence(store), IMPORTANCES)
    assert written[0].stat().st_size < 10_000_000
    assert len(re.findall(r"<tr[ >]", written[0].read_text())) > 1001
    tab = visit(written[0])
    tab.get_by_role("button", name="gain", exact=True).click()
    gains = [float(text) for text in column(tab, "gain") if text]
    assert len(gains) > 900
    assert gains == sorted(gains)
    tab.wait_for_selector("#figure-parallel.live")
    tab.mouse.move(*place_of(tab, "history", 100))
    tab.wait_for_function("focus !== null")  # of a thousand some lie on each other


def test_the_page_fits_the_screen_and_everybody_can_read_it(tmp_path: Path, visit: Visit) -> None:
    """From a phone to a wide screen nothing is scrolled sideways but the table of trials, in its own box."""
    store = in_folder(tmp_path, 16)
    confirm(store, -0.31)
    keep_outcomes(store)
    tab = visit(page.write_from(store, evidence(store), IMPORTANCES)[0])
    assert 'SentenceTransformer("sweep/best/query_encoder")' in tab.locator("pre").inner_text()
    for words in tab.locator("summary").all():
        words.click()
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for width in (1400, 800, 390):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
        paper, ink = (tab.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
        dark = sum(map(int, re.findall(r"\d+", paper))) < sum(map(int, re.findall(r"\d+", ink)))
        assert dark == (scheme == "dark")
        faults = Axe().run(tab).response["violations"]
        serious = [fault for fault in faults if fault["impact"] in ("serious", "critical")]
        assert serious == [], [(fault["id"], [node["html"] for node in fault["nodes"]][:3]) for fault in serious]
    tab.evaluate("document.querySelector('h1').style.color = '#222'")
    assert [one["id"] for one in Axe().run(tab).response["violations"]] == ["color-contrast"]  # what a fault looks like
