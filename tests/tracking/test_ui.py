"""A sweep's pages in MLflow, on a server that the command starts, in a real browser."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from adiabatic_ray import cli, errors
from adiabatic_ray.tracking import ui
from tests import tracked
from tests.tracking import mirrored

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PATIENCE = 60_000  # milliseconds: MLflow's page is large and the machine may be busy


def test_a_sweep_that_was_not_tracked_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = mirrored.create(tmp_path)
    with pytest.raises(errors.SweepError, match=r"has no runs of s. If the sweep was tracked elsewhere, set MLFLOW_TR"):
        ui.pages(store, tracked.default_uri(store.sweep), "http://127.0.0.1:1")
    assert cli.main(["ui", str(tmp_path / "nothing")]) == 1
    assert "error: " in capsys.readouterr().err


def test_a_server_elsewhere_is_not_started_again() -> None:
    with ui.serving("https://mlflow.example/", None) as server:
        assert server == "https://mlflow.example"


@pytest.mark.slow
def test_the_address_opens_on_this_sweeps_trials(browser: Browser, tmp_path: Path) -> None:
    store = mirrored.create(tmp_path)
    runs = mirrored.open_runs(store)
    runs.sync(ending=True)
    runs.close("FINISHED")
    first = tracked.runs(store.sweep)["1"].info.run_name
    command = [sys.executable, "-m", "adiabatic_ray", "ui", str(store.folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            printed = [process.stdout.readline() for _ in range(4)]
            pages = dict(re.findall(r"^(\w+): +(\S+)$", "".join(printed), re.M))
            assert printed[3] == "Ctrl-C ends the server\n"
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            for name in ("runs", "charts", "compared"):
                tab.goto("about:blank")
                tab.goto(pages[name])
                tab.get_by_text(first).first.wait_for(timeout=PATIENCE)
                tab.screenshot(path=str(tmp_path / f"{name}.png"))
            tab.context.close()
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    where = urlsplit(pages["runs"])
    assert where.hostname == "127.0.0.1"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", where.port)) != 0  # nobody listens any more
