"""MLflow's own pages, from a real server in a real browser: trials are compared by the names that we log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adiabatic_ray.report import tracking
from adiabatic_ray.report.ledger import Ledger, Point, Record
from tests import mlflow_server
from tests.report.test_tracking import SETTINGS, runs

PATIENCE = 60_000  # milliseconds: MLflow's page is large and the machine may be busy


@pytest.mark.slow
def test_the_compare_page_and_the_parents_link(browser: Any, tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "s", SETTINGS)
    ledger.put(Record(0, {}, "complete", "", 90.0, 90.0, (Point(0, 90.0, {"gain": 0.0, "constraint": -1.0}),)))
    for number, rate, gain in ((1, 1e-7, 3.25), (2, 3e-7, 7.75)):
        metrics = {"gain": gain, "constraint": -0.5, "improvement/xnli/de": gain / 2}
        chosen = {"learning_rate": rate, "freeze": "embeddings"}
        ledger.put(Record(number, chosen, "complete", "", 100.0, 110.0, (Point(8, 109.0, metrics),), "neutral/de/en"))
    page = ledger.folder / "report.html"
    page.write_text("<h1>the report</h1>")
    with mlflow_server.running(tmp_path / "server", mlflow_server.free_port()) as uri:
        mirror = tracking.Mirror(ledger, uri, "tests")
        mirror.sync(ending=True)
        mirror.log_artifacts([page])
        mirror.close("FINISHED")
        found = runs(ledger, uri)
        experiment = found["parent"].info.experiment_id
        tab = browser.new_page(viewport={"width": 1400, "height": 1600})
        chosen_runs = json.dumps([found[str(number)].info.run_id for number in (1, 2)])
        tab.goto(f"{uri}/#/compare-runs?runs={chosen_runs}&experiments={json.dumps([experiment])}")
        for text in (
            "s trial 1",
            "s trial 2",
            "learning_rate",
            "3e-07",
            "log10_learning_rate",
            "improvement/xnli/de",
            "3.25",
            "7.75",
        ):
            tab.get_by_text(text).first.wait_for(timeout=PATIENCE, state="attached")
        tab.screenshot(path=str(tmp_path / "compare.png"), full_page=True)

        tab.goto(f"{uri}/#/experiments/{experiment}/runs/{found['parent'].info.run_id}")
        link = tab.get_by_role("link", name="Report of this sweep")
        link.wait_for(timeout=PATIENCE)
        with tab.expect_popup() as opened:
            link.click()
        opened.value.get_by_text("report.html").first.wait_for(timeout=PATIENCE)
        assert opened.value.url.endswith("/artifacts/report.html")
        tab.context.close()
