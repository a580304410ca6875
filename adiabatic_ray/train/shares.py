"""Divides the work of a trial among the processes of a torch process group.

Each process embeds its share of a batch and gathers the embeddings of the others. So every process computes the loss of
the whole batch, whichever loss it is, and the gradient through its own share. The sum of these gradients is the
gradient of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import accelerate
import torch
from torch import Tensor, nn

from adiabatic_ray.data.sets import Rows

Items = TypeVar("Items", Sequence[str], Rows)


class Shares:
    """This process's share of the work. A single process does all of it."""

    def __init__(self, accelerator: accelerate.Accelerator) -> None:
        self.accelerator = accelerator

    def own(self, items: Items) -> Items:
        """This process's share of the items: every k-th one, among k processes."""
        return items[self.accelerator.process_index :: self.accelerator.num_processes]

    def whole(self, own: Tensor, count: int) -> Tensor:
        """Gather the embeddings of all shares: `[count, d]`, in the order of the items.

        `own` are this process's embeddings. Only they carry a gradient.
        """
        processes = self.accelerator.num_processes
        if processes == 1:
            return own
        width = math.ceil(count / processes)
        padded = nn.functional.pad(own.to(self.accelerator.device), (0, 0, 0, width - len(own)))
        gathered: Tensor = self.accelerator.gather(padded.detach())
        shares = gathered.view(processes, width, -1).clone()
        shares[self.accelerator.process_index] = padded
        return shares.transpose(0, 1).reshape(processes * width, -1)[:count].to(own.device)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradients in each process by their sum over all processes."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        summed = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
        for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
