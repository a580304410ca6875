"""A query encoder as the untouched weights plus a float32 displacement.

Weights in float32 cannot hold the steps of adiabatic tuning: at a learning rate of 2e-8 a step is below the spacing of
the numbers around a LayerNorm weight of 1, and is rounded away. A displacement of its own, starting at zero, keeps the
step where it matters. It also makes a freezing mask the absence of a displacement, weight decay a pull back to the
untouched point, a checkpoint small, and the distance travelled a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adiabatic_ray.model.encoder import Encoder, Features


class Displacement(nn.Module):
    """Embeds with `base + delta`, where only `delta` is trained; frozen parameters have none.

    The encoder is shared: it stays outside the module, so that nothing here can move or change its weights.
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
        return {
            name: torch.add(self.encoder.parameters[name], delta, alpha=scale)
            for name, delta in zip(self.names, self.deltas, strict=True)
        }

    def forward(self, features: Features) -> Tensor:
        """Unit-length embeddings `[b, d]` of a batch."""
        return self.encoder.embed(features, self.weights())

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the displacement by name, on the CPU."""
        return {name: delta.detach().to("cpu", copy=True) for name, delta in zip(self.names, self.deltas, strict=True)}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a displacement that has exactly these names."""
        for name, delta in zip(self.names, self.deltas, strict=True):
            delta.copy_(tensors[name])

    @torch.no_grad()
    def norms(self) -> dict[str, float]:
        """How far the weights went: the Euclidean norm of the displacement, relative to the base's, and its largest
        entry."""
        squared = torch.stack([delta.double().square().sum() for delta in self.deltas]).sum()
        base = torch.stack([self.encoder.parameters[name].double().square().sum() for name in self.names]).sum()
        largest = torch.stack([delta.abs().max() for delta in self.deltas]).max()
        return {
            "displacement/norm": float(squared.sqrt()),
            "displacement/relative": float((squared / base).sqrt()),
            "displacement/max": float(largest),
        }
