"""Waiting for a node that others hold: said once, over when it is free, and ended by the user."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from adiabatic_ray.sweep import waiting
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.resources import Plan

pytestmark = pytest.mark.usefixtures("ray_cluster")

ALL = Plan(cpus=1, gpus=0, concurrent=2, workers=1, fitting=2, filling_cpus=2)
SAID = "waiting for a node with 2 CPU free; the cluster has 1 node with 2 CPU\n"


@pytest.fixture
def release() -> Iterator[Callable[[], None]]:
    """Somebody holds a CPU until this is called."""
    from ray.util import placement_group, remove_placement_group

    held = placement_group([{"CPU": 1}])
    assert held.wait(30)
    yield lambda: remove_placement_group(held)
    remove_placement_group(held)


def test_nothing_is_said_where_there_is_room(capsys: pytest.CaptureFixture[str]) -> None:
    waiting.for_place(ALL, Console(), threading.Event())
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_wait_is_said_once_and_ends_when_there_is_room(
    capsys: pytest.CaptureFixture[str], release: Callable[[], None]
) -> None:
    threading.Timer(6, release).start()
    waiting.for_place(ALL, Console(), threading.Event())
    assert capsys.readouterr().out == SAID


@pytest.mark.slow
def test_a_wait_is_ended_by_the_user(capsys: pytest.CaptureFixture[str], release: Callable[[], None]) -> None:
    import ray

    interrupted = threading.Event()
    threading.Timer(4, interrupted.set).start()
    with pytest.raises(KeyboardInterrupt):
        waiting.for_place(ALL, Console(), interrupted)
    assert capsys.readouterr().out == SAID
    release()
    assert ray.get(ray.remote(num_cpus=2)(lambda: "free").remote(), timeout=60) == "free"  # no place is left reserved
