"""Waiting for a node, made visible: one line a wait, and the time where there is a terminal."""

from __future__ import annotations

import threading
import time

import ray
from ray.util import placement_group, remove_placement_group

from adiabatic_ray.sweep import nodes
from adiabatic_ray.sweep.console import Console
from adiabatic_ray.sweep.nodes import Node
from adiabatic_ray.sweep.resources import Plan

PATIENCE = 15.0  # seconds that a trial may take to get its place, and its process to start


class Wait:
    """Waits that follow each other; each is said once, when it lasts."""

    def __init__(self, wanted: Node, console: Console, patience: float = PATIENCE) -> None:
        self._wanted, self._console, self._patience = nodes.shape(wanted), console, patience
        self._began: float | None = None
        self._said = False

    @property
    def long(self) -> bool:
        """Whether the present wait is one to be told of."""
        return self._began is not None and time.monotonic() - self._began >= self._patience

    def goes_on(self) -> None:
        """To be called again and again while it lasts."""
        if self._began is None:
            self._began = time.monotonic()
        if not self.long:
            return
        if not self._said:
            self._said = True
            self._console.say(f"waiting for a node with {self._wanted} free; {nodes.now()}")
        elapsed = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - self._began))
        self._console.progress(f"waiting for a node with {self._wanted} free · {elapsed}")

    def over(self) -> None:
        """Now there is a place, or nothing that needs one."""
        self._began, self._said = None, False


def for_place(layout: Plan, console: Console, interrupted: threading.Event) -> None:
    """Wait until a node has room to fill the cache, and then for a trial, which makes an autoscaler bring one.

    Raises:
        KeyboardInterrupt: the user stopped the sweep.
    """
    wanted = {**layout.trial, "CPU": layout.filling_cpus}
    wait = Wait(wanted, console, patience=0)  # no process starts here, so a place is there at once or not
    group = placement_group([wanted])
    try:
        while not group.wait(1):
            if interrupted.is_set():
                raise KeyboardInterrupt
            wait.goes_on()
    finally:
        remove_placement_group(group)
        console.clear()


def actors() -> set[str]:
    """The sweep's actors that have their place, whether they are at work or still load what they need."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    placed = (ray._private.state.actors(job_id=job, actor_state_name=state) for state in ("PENDING_CREATION", "ALIVE"))
    return {actor for found in placed for actor in found}
