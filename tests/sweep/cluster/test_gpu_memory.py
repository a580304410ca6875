"""A share of a GPU: how much of it a process may take, and that it takes no more."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from adiabatic_ray import errors
from adiabatic_ray.sweep.cluster import gpu_memory

GIB = 2**30


@pytest.mark.parametrize("gpus", [8, 16, 24, 80])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_all_shares_of_a_gpu_fit_on_it(gpus: int, count: int) -> None:
    total = gpus * GIB
    allowed = gpu_memory.allowance(total, 1 / count)
    neighbours = (count - 1) * (allowed + gpu_memory.CONTEXT)  # that take all that they may
    free = int(total - neighbours - gpu_memory.CONTEXT)  # as the last one sees it, which is on the GPU by then
    assert gpu_memory.suffices(free, allowed)
    assert not gpu_memory.suffices(free - total // 10, allowed)  # a stranger is there as well


def test_a_share_that_holds_nothing() -> None:
    with pytest.raises(errors.ResourceError, match=r"0\.05 of a GPU of 8\.0 GiB is too small.* Raise `resources.gpus"):
        gpu_memory.allowance(8 * GIB, 0.05)
    assert gpu_memory.allowance(80 * GIB, 0.05) == 3.5 * GIB


@pytest.mark.parametrize(("share", "said"), [(0.25, " on 0.25 of a GPU; raise `resources.gpus_per_trial`"), (1.0, "")])
def test_running_out_of_memory_names_the_share(share: float, said: str) -> None:
    assert gpu_memory.advice(share) == said
    assert gpu_memory.advice(None) == ""


ON_A_SHARE = """
import torch
from adiabatic_ray import errors
from adiabatic_ray.sweep.cluster import gpu_memory

gpu_memory.take(0.25)
_, total = torch.cuda.mem_get_info()
held = torch.empty(int(0.15 * total), dtype=torch.uint8, device="cuda")
try:
    torch.empty(int(0.15 * total), dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError:
    print("out of memory")
del held
torch.cuda.empty_cache()
torch.cuda.set_per_process_memory_fraction(1.0)
held = torch.empty(int(0.85 * total), dtype=torch.uint8, device="cuda")
gpu_memory.PATIENCE = 0
try:
    gpu_memory.take(0.25)
except errors.ResourceError as error:
    print(error)
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_process_keeps_to_its_share_and_finds_it_taken() -> None:
    done = subprocess.run([sys.executable, "-c", ON_A_SHARE], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "out of memory"
    assert "are free on a GPU of which a trial is given 0.25, which is" in second
    assert "Free the GPU, or lower `resources.gpus_per_trial`." in second
