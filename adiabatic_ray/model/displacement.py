"""A query encoder as the untouched weights plus a float32 displacement.

Weights in float32 cannot hold the steps of adiabatic tuning: at a learning rate of 2e-8 a step is below the spacing of
the numbers around a LayerNorm weight of 1, and is rounded away. A separate displacement that starts at zero keeps such
steps. It has more advantages: a frozen parameter has no displacement, weight decay pulls back to the untouched weights,
checkpoints are small, and the distance from the untouched weights is a metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from adiabatic_ray.model.encoder import Encoder, Features


class Displacement(nn.Module):
    """An encoder on the weights `base + delta`. Only `delta` is trained, and frozen parameters have none.

    The encoder is shared. It is not a submodule, so nothing here can move or change its weights.
    """

    def __init__(self, encoder: Encoder, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self._shared = (encoder,)  # a tuple hides it from nn.Module's registration
        self.deltas = nn.ParameterList(torch.zeros_like(encoder.parameters[name]) for name in names)

    @property
    def encoder(self) -> Encoder:
        return self._shared[0]

    def weights(self, scale: float = 1.0) -> dict[str, Tensor]:
        """`base + scale * delta` by name, differentiable in the deltas."""
        return moved(self.encoder.parameters, dict(zip(self.names, self.deltas, strict=True)), scale)

    def forward(self, features: Features) -> Tensor:
        """Unit-length embeddings `[b, d]` of a batch."""
        return self.encoder.embed(features, self.weights())

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the displacement by name, on the CPU."""
        return {name: delta.detach().to("cpu", copy=True) for name, delta in zip(self.names, self.deltas, strict=True)}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a stored displacement, which must have the names of the trained parameters."""
        for name, delta in zip(self.names, self.deltas, strict=True):
            delta.copy_(tensors[name])

    @torch.no_grad()
    def norms(self) -> dict[str, float]:
        """How far the weights have moved: the displacement's Euclidean norm and its largest entry.

        `displacement/relative` is the norm divided by the norm of the same base weights.
        """
        norm, base = _norm(self.deltas), _norm(self.encoder.parameters[name] for name in self.names)
        largest = torch.stack([torch.stack(torch.aminmax(delta)).abs().max() for delta in self.deltas]).max()
        return {
            "displacement/norm": norm,
            "displacement/relative": norm / base,
            "displacement/max": float(largest),
        }


def moved(base: Mapping[str, Tensor], deltas: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """`base + scale * delta` by name, for the names of `deltas`, on the base's device.

    Training, evaluation, confirmation and export all use this function, so their weights are the same to the last bit.
    The product is rounded before the sum: one fused operation would give different results on different devices.
    """
    here = {name: delta.to(base[name].device) for name, delta in deltas.items()}
    return {name: base[name] + (delta if scale == 1 else scale * delta) for name, delta in here.items()}


def _norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of all entries, in float64 from the rows' norms: in one pass, without a float64 copy."""
    return float(torch.cat([torch.linalg.vector_norm(tensor, dim=-1).double().flatten() for tensor in tensors]).norm())
