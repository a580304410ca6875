"""Displacements of low rank: `delta = B A` of the matrices of a transformer's linear maps, and nothing else.

The two factors of a matrix begin as those of LoRA do (Hu et al. 2022, as `peft` has it), with a scaling of 1: `A` is
random and `B` is zero. So a displacement begins at zero, and its factors are an adapter that `peft` loads.

While it trains, `B A` is never computed: each linear map adds `B (A x)` to what it puts out, which saves the memory of
the product and the time of its gradient.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from adiabatic_ray import errors

A, B = ".lora_A", ".lora_B"  # follow the name of the weight in the name of its factor


def matrices(module: nn.Module, names: Iterable[str]) -> list[str]:
    """The names that belong to the weight of a linear map in `module`, in the order given."""
    linear = {f"{name}.weight" for name, one in module.named_modules() if isinstance(one, nn.Linear)}
    return [name for name in names if name in linear]


def factors(weights: Mapping[str, Tensor], rank: int, seed: int) -> dict[str, Tensor]:
    """`A` `[rank, in]` and `B` `[out, rank]` of each weight `[out, in]`, by name and on its device.

    `A` is drawn on the CPU, so that it is the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {}
    for name, weight in weights.items():
        first = torch.empty(rank, weight.shape[1])
        nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
        drawn[name + A] = first.to(weight.device)
        drawn[name + B] = weight.new_zeros(weight.shape[0], rank)
    return drawn


@contextlib.contextmanager
def added(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside of it, linear maps in `module` put out `W x + B (A x)`, differentiable in these factors.

    Raises:
        ModelError: in what was run, a linear map was passed by: the model uses its weight without calling it.
    """
    called = set()

    def add(weight: str) -> torch.utils.hooks.RemovableHandle:
        first, second = tensors[weight + A], tensors[weight + B]

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            called.add(weight)
            return output + nn.functional.linear(nn.functional.linear(inputs[0], first), second)

        return module.get_submodule(weight.removesuffix(".weight")).register_forward_hook(hook)

    weights = [name.removesuffix(A) for name in tensors if name.endswith(A)]
    hooks = [add(weight) for weight in weights]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
    missed = [weight for weight in weights if weight not in called]
    if missed:
        raise errors.ModelError(
            f"train.rank: the model uses `{missed[0]}` without calling its linear map, so that a displacement of low "
            "rank cannot be trained there. Freeze it, or leave `rank` out."
        )


def is_factored(tensors: Iterable[str]) -> bool:
    """Whether these are the names of factors."""
    return any(name.endswith(A) for name in tensors)


def products(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Displacements by the names of their weights, one after the other: those of low rank from their factors."""
    for name, tensor in tensors.items():
        if name.endswith(A):
            weight = name.removesuffix(A)
            yield weight, tensors[weight + B] @ tensor
        elif not name.endswith(B):
            yield name, tensor
