"""Waiting for a node that others hold: said once, over when it is free, and ended by the user."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from adiabatic_ray.sweep import waiting
from adiabatic_ray.sweep.cluster.resources import Plan
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.waiting import Wait
from tests.waiting import until

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


class Waiting:
    """A wait for a place on a thread of its own, and what it has said so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.interrupted, self.ended_by = threading.Event(), ""
        self._capsys, self._said = capsys, ""
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self) -> None:
        try:
            waiting.for_place(ALL, Console(), self.interrupted)
            self.ended_by = "room"
        except KeyboardInterrupt:
            self.ended_by = "the user"

    def said(self) -> str:
        self._said += self._capsys.readouterr().out
        return self._said

    def end(self) -> str:
        """Why it ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.ended_by


def test_nothing_is_said_where_there_is_room(capsys: pytest.CaptureFixture[str]) -> None:
    waiting.for_place(ALL, Console(), threading.Event())
    assert capsys.readouterr().out == ""


def test_a_wait_is_said_and_ends_when_there_is_room(
    capsys: pytest.CaptureFixture[str], release: Callable[[], None]
) -> None:
    wait = Waiting(capsys)
    until(lambda: SAID in wait.said(), "the word that it waits")
    release()
    assert (wait.end(), wait.said()) == ("room", SAID)


def test_a_wait_is_ended_by_the_user(capsys: pytest.CaptureFixture[str], release: Callable[[], None]) -> None:
    import ray

    wait = Waiting(capsys)
    until(lambda: SAID in wait.said(), "the word that it waits")
    wait.interrupted.set()
    assert (wait.end(), wait.said()) == ("the user", SAID)
    release()
    assert ray.get(ray.remote(num_cpus=2)(lambda: "free").remote(), timeout=60) == "free"  # no place is left reserved


def test_each_wait_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    wait = Wait({"CPU": 2.0}, Console(), patience=0)
    wait.over()
    for _ in range(3):
        wait.goes_on()
    assert wait.long
    assert capsys.readouterr().out == SAID
    wait.over()
    assert not wait.long
    wait.goes_on()
    assert capsys.readouterr().out == SAID


def test_a_short_wait_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    wait = Wait({"CPU": 2.0}, Console(), patience=3600)
    wait.goes_on()
    wait.goes_on()
    assert not wait.long
    assert capsys.readouterr().out == ""
