"""Runs the forward and backward pass of a training step on a GPU as one CUDA graph.

A step on a small encoder is a thousand kernels of a few microseconds each, which a CPU launches more slowly than the
GPU runs them. A graph launches them all at once. It has fixed shapes, so there is one for each width of a batch; all of
them share their memory, since they never run at the same time. Source: Nguyen et al. 2021, "Accelerating PyTorch with
CUDA Graphs".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

WIDTH = 8  # batches are padded to a multiple of this many tokens, so that few graphs are captured
WARM_UP = 3  # eager passes before a capture, in which CUDA's libraries choose their kernels

Backward = Callable[..., Tensor]  # adds to the gradients of the parameters, and returns the detached loss


@dataclass
class CudaGraphs:
    """`backward`, a function of tensors, captured once for each combination of their shapes and replayed after that.

    The gradients of `parameters` stay where they are from here on: zero them, do not set them to `None`. `backward` may
    neither draw random numbers nor wait for the GPU.
    """

    backward: Backward
    parameters: Sequence[Tensor]
    _captured: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def __call__(self, *tensors: Tensor) -> Tensor:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self._captured:
            self._captured[shapes] = self._capture(tensors)
        graph, inputs, loss = self._captured[shapes]
        for own, tensor in zip(inputs, tensors, strict=True):
            own.copy_(tensor)
        graph.replay()
        return loss.clone()

    def _capture(self, tensors: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        inputs = [tensor.clone() for tensor in tensors]
        so_far = [parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.backward(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        pool = next((graph.pool() for graph, _, _ in self._captured.values()), None)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            loss = self.backward(*inputs)
        for parameter, gradient in zip(self.parameters, so_far, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(gradient)
        return graph, inputs, loss
