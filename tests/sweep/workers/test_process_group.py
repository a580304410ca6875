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
from adiabatic_ray.evaluate.embedded_data import EmbeddedData
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep.workers.process_group import ProcessGroupRunner
from adiabatic_ray.sweep.workers.trial_runner import TrialRunner
from adiabatic_ray.trials.layout import SweepFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOSSES = ["triplet_margin", "infonce"]
# The gradient of a key's bias is zero but for rounding errors, out of which AdamW makes steps as large as any.
MASK = "embeddings+key.bias"


@pytest.fixture
def sweep(load_sweep: Callable[..., config.Sweep]) -> config.Sweep:
    """Batches of 7, which two processes cannot share evenly.

    AdamW makes steps of the learning rate's size out of gradients of any size, the rounding errors of those near zero
    included. So what sums in another order differ by in a few elements grows with the rate, between one process and two
    as between one process and the same training in float64: up to a step of 1e-5.
    """
    sizes = {"train.batch_size": 7, "train.gradient_accumulation_steps": 2, "resources.workers_per_trial": 2}
    return load_sweep(sizes | {"train.learning_rate": 1e-5})


@pytest.fixture
def group(sweep: config.Sweep, embedded: EmbeddedData, tmp_path: Path) -> Iterator[Callable[[str], ProcessGroupRunner]]:
    """Groups of two processes that write into a folder of the test."""
    groups: list[ProcessGroupRunner] = []

    def make(folder: str) -> ProcessGroupRunner:
        groups.append(ProcessGroupRunner(1, False, sweep, embedded, str(tmp_path / folder)))
        return groups[-1]

    yield make
    for one in groups:
        one.close()


def start(runner: TrialRunner | ProcessGroupRunner, number: int, **chosen: Any) -> None:
    runner.start(number, {"freeze": MASK, **chosen})


def displacement(folder: Path, number: int) -> dict[str, torch.Tensor]:
    stored = checkpoint.load(SweepFolder(folder).trial(number).displacement)
    assert stored is not None
    return dict(stored.tensors)


def listening() -> set[tuple[str, int]]:
    """The addresses and ports that this process and those that it started listen on."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    connections = [connection for process in processes for connection in process.net_connections(kind="inet")]
    return {tuple(connection.laddr) for connection in connections if connection.status == psutil.CONN_LISTEN}


def test_two_processes_do_what_one_does_and_two_groups_do_not_collide(
    sweep: config.Sweep,
    embedded: EmbeddedData,
    encoder: Encoder,
    group: Callable[[str], ProcessGroupRunner],
    tmp_path: Path,
) -> None:
    before = listening()  # a Ray of other tests, for one
    groups = {loss: group(loss) for loss in LOSSES}
    for loss in LOSSES:
        start(groups[loss], 1, loss=loss)
    of_two = {loss: [one.step()] for loss, one in groups.items()}  # both are under way
    addresses = {address for address, _ in listening() - before}
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    for loss in LOSSES:
        of_two[loss].append(groups[loss].step())
        alone = TrialRunner(encoder, sweep, embedded, str(tmp_path / "alone"))
        start(alone, LOSSES.index(loss), loss=loss)
        of_one = [alone.step(), alone.step()]
        assert [report.status for report in of_two[loss]] == ["running", "complete"]
        for one, two in zip(of_one, of_two[loss], strict=True):
            assert two.metrics["loss"] == pytest.approx(one.metrics["loss"], abs=1e-6)
            assert two.metrics["gain"] == one.metrics["gain"]
            assert two.worst == one.worst
        ours, theirs = displacement(tmp_path / loss, 1), displacement(tmp_path / "alone", LOSSES.index(loss))
        assert max(float(delta.abs().max()) for delta in theirs.values()) > 3e-5
        assert ours.keys() == theirs.keys()
        apart = torch.cat([(ours[name] - delta).abs().flatten() for name, delta in theirs.items()])
        assert float(apart.max()) < 1e-5
        assert int((apart > 1e-6).sum()) <= 3  # rounding is seen in a few elements only
        assert float((apart > 1e-9).double().mean()) < 1e-3


def test_a_process_that_dies_takes_the_trial_with_it_and_the_next_one_starts(
    group: Callable[[str], ProcessGroupRunner],
) -> None:
    runner = group("t")
    start(runner, 1)
    assert runner.step().status == "running"
    workers = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 2
    os.kill(workers[1].pid, signal.SIGKILL)
    with pytest.raises(errors.SweepError, match=r"process 1 of 2 died"):
        runner.step()
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() for worker in workers)
    start(runner, 1)  # goes on from its checkpoint
    assert runner.step().status == "complete"


def test_what_fails_is_a_result(group: Callable[[str], ProcessGroupRunner]) -> None:
    runner = group("t")
    start(runner, 1, freeze="nothing.of.the.kind")
    report = runner.step()
    assert report.status == "crashed"
    assert "matches no parameter" in report.reason
    start(runner, 2)
    assert runner.step().status == "running"


def test_a_storage_that_takes_nothing_is_reported_and_tried_again(
    group: Callable[[str], ProcessGroupRunner], tmp_path: Path
) -> None:
    """The first process of a group stores; the others wait for it."""
    undisturbed = group("alone")
    start(undisturbed, 1)
    expected = [undisturbed.step() for _ in range(2)]
    undisturbed.close()
    disturbed = group("runs")
    start(disturbed, 1)
    members = [
        process for process in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(process.cmdline())
    ]
    assert len(members) >= 2
    for process in members:
        process.rlimit(psutil.RLIMIT_FSIZE, (50_000, psutil.RLIM_INFINITY))
    reports = [disturbed.step() for _ in range(2)]
    assert all("File too large" in report.waits for report in reports)
    for process in members:
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    later = [disturbed.step() for _ in range(2)]
    assert [(report.step, report.status) for report in later] == [(report.step, report.status) for report in expected]
    losses = [report.metrics["loss"] for report in expected]
    assert [report.metrics["loss"] for report in later] == pytest.approx(losses, abs=1e-5)
    assert SweepFolder(tmp_path / "runs").trial(1).displacement.exists()
