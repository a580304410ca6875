"""Shows that a sweep waits for a node: one line for each wait, and on a terminal also the time."""

from __future__ import annotations

import threading
import time

from ray.util import placement_group, remove_placement_group

from adiabatic_ray.sweep.cluster import nodes
from adiabatic_ray.sweep.cluster.resources import Plan
from adiabatic_ray.sweep.console import Console

PATIENCE = 15.0  # seconds that a trial may take to be scheduled and its process to start, before a wait is shown


class Wait:
    """Shows each of a series of waits, once it lasts longer than `patience` seconds."""

    def __init__(self, wanted: nodes.Node, console: Console, patience: float = PATIENCE) -> None:
        self._wanted, self._console, self._patience = nodes.shape(wanted), console, patience
        self._began: float | None = None
        self._said = False

    @property
    def long(self) -> bool:
        """Whether the present wait lasts longer than `patience` seconds."""
        return self._began is not None and time.monotonic() - self._began >= self._patience

    def goes_on(self) -> None:
        """Begin or show a wait. The caller repeats this while the wait lasts."""
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
        """End the wait, if there is one."""
        self._began, self._said = None, False


def for_place(plan: Plan, console: Console, interrupted: threading.Event) -> None:
    """Wait until a node has room to fill the cache and to run a trial. The request makes an autoscaler add a node.

    Raises:
        KeyboardInterrupt: the user stopped the sweep.
    """
    wanted = {**plan.trial, "CPU": plan.filling_cpus}
    wait = Wait(wanted, console, patience=0)  # no process has to start, so any wait is for a node
    group = placement_group([wanted])
    try:
        while not group.wait(1):
            if interrupted.is_set():
                raise KeyboardInterrupt
            wait.goes_on()
    finally:
        remove_placement_group(group)
        console.clear()
