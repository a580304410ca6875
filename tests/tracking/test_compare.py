"""MLflow's own pages, from a real server in a real browser: trials are compared by the names that we log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from adiabatic_ray import config
from adiabatic_ray.trials.record import Evaluation, TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests import mlflow_server, tracked
from tests.sweeps import minimal
from tests.tracking.mirrored import open_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PATIENCE = 60_000  # milliseconds: MLflow's page is large and the machine may be busy


@pytest.mark.slow
def test_the_compare_page_and_the_parents_link(browser: Browser, tmp_path: Path) -> None:
    sweep = minimal(storage=str(tmp_path), mlflow=config.Mlflow(experiment="tests"))
    store = TrialStore.create(tmp_path / "s", sweep)
    untouched = (Evaluation(0, 90.0, {"gain": 0.0, "constraint": -1.0}),)
    store.put(TrialRecord(0, {}, "complete", "", 90.0, 90.0, untouched))
    for number, rate, gain in ((1, 1e-7, 3.25), (2, 3e-7, 7.75)):
        points = (Evaluation(8, 109.0, {"gain": gain, "constraint": -0.5, "improvement/xnli/de": gain / 2}),)
        chosen = {"learning_rate": rate, "freeze": "embeddings"}
        store.put(TrialRecord(number, chosen, "complete", "", 100.0, 110.0, points, "neutral/de/en"))
    page = store.folder.report
    page.write_text("<h1>the report</h1>")
    with mlflow_server.running(tmp_path / "server", mlflow_server.free_port()) as uri:
        ours = open_runs(store, uri)
        ours.sync(ending=True)
        ours.log_artifacts([page])
        ours.close("FINISHED")
        runs = tracked.runs(sweep, uri)
        experiment = runs["parent"].info.experiment_id
        tab = browser.new_page(viewport={"width": 1400, "height": 1600})
        chosen_runs = json.dumps([runs[str(number)].info.run_id for number in (1, 2)])
        tab.goto(f"{uri}/#/compare-runs?runs={chosen_runs}&experiments={json.dumps([experiment])}")
        for text in (
            runs["1"].info.run_name,
            runs["2"].info.run_name,
            "learning_rate",
            "3e-07",
            "log10_learning_rate",
            "improvement/xnli/de",
            "3.25",
            "7.75",
        ):
            tab.get_by_text(text).first.wait_for(timeout=PATIENCE, state="attached")
        tab.screenshot(path=str(tmp_path / "compare.png"), full_page=True)

        tab.goto(f"{uri}/#/experiments/{experiment}/runs/{runs['parent'].info.run_id}")
        link = tab.get_by_role("link", name="Report of this sweep")
        link.wait_for(timeout=PATIENCE)
        with tab.expect_popup() as opened:
            link.click()
        opened.value.get_by_text("report.html").first.wait_for(timeout=PATIENCE)
        assert opened.value.url.endswith("/artifacts/report.html")
        tab.context.close()
