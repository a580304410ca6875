"""Counts the memory that training a trial takes, without a GPU: tensors are counted, and nothing else is.

A framework's own memory comes on top (CUDA's context and workspaces, half a gigabyte or more), and what attention saves
depends on the device's kernel: fused ones save less than is counted on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from adiabatic_ray.model.displacement import Displacement
from adiabatic_ray.model.encoder import Encoder

COPIES = 4  # of what is trained: itself, its gradient, and AdamW's two moments


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step: the encoder's weights, what belongs to the displacement, and activations."""

    weights: int
    displacement: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.displacement + self.activations


def of_step(encoder: Encoder, names: Sequence[str], batch: int, tokens: int, rank: int | None = None) -> Memory:
    """Count a step that moves the weights of these names on `batch` queries of so many tokens."""
    displacement = Displacement(encoder, names, rank)
    features = encoder.collate([encoder.tokenize(["a"], "query")[0][:1] * tokens] * batch)
    weights = displacement.weights() if rank is None else {}
    every = {p for side in encoder.sides.values() for p in side.parameters()}  # what both sides share, once
    saved = saved_bytes(
        lambda: encoder.embed(features, weights) if weights else displacement(features),
        without=[*every, *weights.values(), *displacement.deltas],
    )
    return Memory(_bytes(every), of_displacement(weights.values(), displacement.deltas), saved)


def of_displacement(sums: Iterable[Tensor], trained: Iterable[Tensor]) -> int:
    """Bytes of what is trained with AdamW, and of its sums with the untouched weights. Low rank has none."""
    return _bytes(sums) + COPIES * _bytes(trained)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def saved_bytes(forward: Callable[[], Tensor], without: Iterable[Tensor] = ()) -> int:
    """The bytes that a forward pass keeps for the backward pass, each storage once, without those of some tensors."""
    known = {_storage(tensor) for tensor in without}
    sizes: dict[StorageWeakRef, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (key := _storage(tensor)) not in known:
            sizes[key] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result  # which holds the graph, and so all that was kept, until here
    return sum(sizes.values())


def _storage(tensor: Tensor) -> StorageWeakRef:
    """What tells the tensor's storage from others, also where it has no address, as on the device `meta`."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
