"""Waiting for what another process or thread does, never without an end."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(reached: Callable[[], bool], what: str, seconds: float = 60.0, pause: float = 0.02) -> None:
    """Wait until `reached()` is true, asking again after each pause. After `seconds` fail, and say what was awaited."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(pause)
