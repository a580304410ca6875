"""A share of a GPU, which several processes hold at once: each finds it free, and stays within it."""

from __future__ import annotations

import time

import torch

from adiabatic_ray import errors

CONTEXT = 0.5 * 2**30  # bytes of a GPU that CUDA itself takes for each process, beside what torch allocates
NEARLY = 0.95  # of what a process may allocate is enough to start with: what is free is no exact number
PATIENCE = 30.0  # seconds in which a process that just ended may give its memory back


def take(share: float) -> None:
    """Keep this process within its share of its GPU, once that is free.

    Raises:
        ResourceError: others hold it, or it is too small to hold anything.
    """
    free, total = torch.cuda.mem_get_info()
    allowed = allowance(total, share)
    deadline = time.monotonic() + PATIENCE
    while not suffices(free, allowed) and time.monotonic() < deadline:
        time.sleep(1)
        free, _ = torch.cuda.mem_get_info()
    if not suffices(free, allowed):
        raise errors.ResourceError(
            f"{_gib(free)} of {_gib(total)} are free on a GPU of which a trial is given {share:g}, "
            f"which is {_gib(share * total)}: others use it. Free the GPU, or lower `resources.gpus_per_trial`."
        )
    # So that a trial that needs more runs out of memory by itself, and takes no neighbour down.
    torch.cuda.set_per_process_memory_fraction(allowed / total)


def allowance(total: int, share: float) -> int:
    """How many bytes a process may allocate on a share of a GPU of `total` bytes.

    Raises:
        ResourceError: it would be none.
    """
    allowed = int(share * total - CONTEXT)
    if allowed <= 0:
        raise errors.ResourceError(
            f"{share:g} of a GPU of {_gib(total)} is too small: CUDA alone takes about {_gib(CONTEXT)} for a process. "
            "Raise `resources.gpus_per_trial`."
        )
    return allowed


def suffices(free: int, allowed: int) -> bool:
    """Whether a process that may allocate so much can start."""
    return free >= NEARLY * allowed


def advice(share: float | None) -> str:
    """What to add where memory ran out on a share of a GPU; nothing where a trial has a whole one."""
    return f" on {share:g} of a GPU; raise `resources.gpus_per_trial`" if share and share < 1 else ""


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
