"""Waiting for a node that others hold: said once, over when it is free, and ended by the user."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from adiabatic_ray.sweep import waiting  # before Ray, which reads what it sets
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.resources import Plan
from adiabatic_ray.sweep.waiting import placement_group, ray, remove_placement_group

pytestmark = pytest.mark.usefixtures("ray_cluster")

ALL = Plan(cpus=1, gpus=0, concurrent=2, workers=1, filling_cpus=2)
SAID = "waiting for a node with 2 CPU free; the cluster has 1 node with 2 CPU\n"


@pytest.fixture
def others() -> Iterator[object]:
    """Somebody who holds a CPU."""
    held = placement_group([{"CPU": 1}])
    assert held.wait(30)
    yield held
    remove_placement_group(held)


def test_nothing_is_said_where_there_is_room(capsys: pytest.CaptureFixture[str]) -> None:
    waiting.for_place(ALL, Console(), threading.Event())
    assert capsys.readouterr().out == ""


def test_a_wait_is_said_once_and_ends_when_there_is_room(capsys: pytest.CaptureFixture[str], others: object) -> None:
    threading.Timer(6, remove_placement_group, [others]).start()
    waiting.for_place(ALL, Console(), threading.Event())
    assert capsys.readouterr().out == SAID


def test_a_wait_is_ended_by_the_user(capsys: pytest.CaptureFixture[str], others: object) -> None:
    interrupted = threading.Event()
    threading.Timer(4, interrupted.set).start()
    with pytest.raises(KeyboardInterrupt):
        waiting.for_place(ALL, Console(), interrupted)
    assert capsys.readouterr().out == SAID
    remove_placement_group(others)
    assert ray.get(ray.remote(num_cpus=2)(lambda: "free").remote(), timeout=60) == "free"  # no place is left reserved
