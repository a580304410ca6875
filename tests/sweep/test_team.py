"""A trial on several processes is the same trial."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from adiabatic_ray import config, errors
from adiabatic_ray.model import checkpoint
from adiabatic_ray.sweep import materials
from adiabatic_ray.sweep.attempt import Attempt
from adiabatic_ray.sweep.materials import Filler, Materials
from adiabatic_ray.sweep.team import Team
from adiabatic_ray.sweep.workbench import DISPLACEMENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOSSES = ["triplet_margin", "infonce"]
# The gradient of a key's bias is zero but for rounding errors, out of which AdamW makes steps as large as any.
MASK = "embeddings+key.bias"


@pytest.fixture
def sweep(load_sweep: Callable[..., config.Sweep]) -> config.Sweep:
    """Batches of 7, which two processes cannot share evenly.

    AdamW makes steps of the learning rate's size out of gradients of any size, the rounding errors of those near zero
    included. So what sums in another order differ by in a few elements grows with the rate: from 3e-5 on it can pass
    1e-6, between one process and two as between one process and the same training in float64.
    """
    return load_sweep({"train.batch_size": 7, "train.learning_rate": 1e-5, "train.gradient_accumulation_steps": 2})


@pytest.fixture
def shared(sweep: config.Sweep, encoder: Any, tmp_path: Path) -> Materials:
    filling = Filler(encoder, tmp_path / "cache").materials(materials.read(sweep))
    while True:
        try:
            next(filling)
        except StopIteration as done:
            found: Materials = done.value
            return found


@pytest.fixture
def team(sweep: config.Sweep, shared: Materials, tmp_path: Path) -> Iterator[Callable[[str], Team]]:
    """Teams of two processes that write under a folder of the test."""
    teams = []

    def make(folder: str) -> Team:
        teams.append(Team(2, 1, False, sweep, shared, str(tmp_path / folder)))
        return teams[-1]

    yield make
    for one in teams:
        one.close()


def start(attempt: Attempt | Team, folder: Path, number: int, **chosen: Any) -> None:
    (folder / "trials" / f"{number:04d}").mkdir(parents=True)
    attempt.start({"number": number, "freeze": MASK, **chosen})


def displacement(folder: Path, number: int) -> dict[str, torch.Tensor]:
    found = checkpoint.load(folder / "trials" / f"{number:04d}" / DISPLACEMENT)
    assert found is not None
    return dict(found.tensors)


def listening() -> set[tuple[str, int]]:
    """The addresses and ports that this process and those that it started listen on."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [connection for process in processes for connection in process.net_connections(kind="inet")]
    return {tuple(connection.laddr) for connection in found if connection.status == psutil.CONN_LISTEN}


def test_two_processes_do_what_one_does_and_two_teams_do_not_collide(
    sweep: config.Sweep, shared: Materials, encoder: Any, team: Callable[[str], Team], tmp_path: Path
) -> None:
    before = listening()  # a Ray of other tests, for one
    teams = {loss: team(loss) for loss in LOSSES}
    for loss in LOSSES:
        start(teams[loss], tmp_path / loss, 1, loss=loss)
    of_two = {loss: [one.step()] for loss, one in teams.items()}  # both are under way
    addresses = {address for address, _ in listening() - before}
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    for loss in LOSSES:
        of_two[loss].append(teams[loss].step())
        alone = Attempt(encoder, sweep, shared, str(tmp_path / "alone"))
        start(alone, tmp_path / "alone", LOSSES.index(loss), loss=loss)
        of_one = [alone.step(), alone.step()]
        assert [report["status"] for report in of_two[loss]] == ["running", "complete"]
        for one, two in zip(of_one, of_two[loss], strict=True):
            assert two["metrics"]["loss"] == pytest.approx(one["metrics"]["loss"], abs=1e-6)
            assert two["metrics"]["gain"] == one["metrics"]["gain"]
            assert two["worst"] == one["worst"]
        ours, theirs = displacement(tmp_path / loss, 1), displacement(tmp_path / "alone", LOSSES.index(loss))
        assert max(float(delta.abs().max()) for delta in theirs.values()) > 3e-5
        for name, delta in theirs.items():
            torch.testing.assert_close(ours[name], delta, atol=1e-6, rtol=0)
        apart = torch.cat([(ours[name] - delta).abs().flatten() for name, delta in theirs.items()])
        assert float((apart > 1e-9).double().mean()) < 1e-3  # rounding is seen in a few elements only


def test_a_process_that_dies_takes_the_trial_with_it_and_the_next_one_starts(
    team: Callable[[str], Team], tmp_path: Path
) -> None:
    one = team("t")
    start(one, tmp_path / "t", 1)
    assert one.step()["status"] == "running"
    workers = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    os.kill(workers[1].pid, signal.SIGKILL)
    with pytest.raises(errors.SweepError, match=r"process 1 of 2 died"):
        one.step()
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() for worker in workers)
    one.start({"number": 1, "freeze": MASK})  # goes on from its checkpoint
    assert one.step()["status"] == "complete"


def test_what_fails_is_a_result(team: Callable[[str], Team], tmp_path: Path) -> None:
    one = team("t")
    start(one, tmp_path / "t", 1, freeze="nothing.of.the.kind")
    report = one.step()
    assert report["status"] == "crashed"
    assert "matches no parameter" in report["reason"]
    start(one, tmp_path / "t", 2)
    assert one.step()["status"] == "running"
