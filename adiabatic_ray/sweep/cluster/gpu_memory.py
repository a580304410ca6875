"""Shares the memory of a GPU among processes. Each waits until its share is free, and stays within it."""

from __future__ import annotations

import time

import torch

from adiabatic_ray import errors

CONTEXT = 0.5 * 2**30  # bytes of a GPU that CUDA itself takes for each process, in addition to what torch allocates
NEARLY = 0.95  # the part of its allowance that must be free for a process to start; free memory is not exact
PATIENCE = 30.0  # seconds to wait until a process that just ended has freed its memory


def take(share: float) -> None:
    """Wait until this process's share of its GPU is free, and limit torch's memory to it.

    Raises:
        ResourceError: other processes use the memory, or the share is smaller than what CUDA itself takes.
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
            f"which is {_gib(share * total)}: other processes use it. Free the GPU, or lower "
            "`resources.gpus_per_trial`."
        )
    # With the limit, a trial that needs more runs out of memory itself, and does not make another trial fail.
    torch.cuda.set_per_process_memory_fraction(allowed / total)


def allowance(total: int, share: float) -> int:
    """How many bytes torch may allocate in a process on a share of a GPU of `total` bytes.

    Raises:
        ResourceError: the share is smaller than what CUDA itself takes.
    """
    allowed = int(share * total - CONTEXT)
    if allowed <= 0:
        raise errors.ResourceError(
            f"{share:g} of a GPU of {_gib(total)} is too small: CUDA alone takes about {_gib(CONTEXT)} for a process. "
            "Raise `resources.gpus_per_trial`."
        )
    return allowed


def suffices(free: int, allowed: int) -> bool:
    """Whether so many free bytes are enough for a process that may allocate `allowed` bytes."""
    return free >= NEARLY * allowed


def advice(share: float | None) -> str:
    """Advice to add to an out-of-memory message. Empty unless the trial has only a share of a GPU."""
    return f" on {share:g} of a GPU; raise `resources.gpus_per_trial`" if share and share < 1 else ""


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
