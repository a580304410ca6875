"""A query encoder as the untouched weights plus a float32 displacement.

Weights in float32 cannot hold the steps of adiabatic tuning: at a learning rate of 2e-8 a step is below the spacing of
the numbers around a LayerNorm weight of 1, and is rounded away. A displacement of its own, starting at zero, keeps the
step where it matters. It also makes a freezing mask the absence of a displacement, weight decay a pull back to the
untouched point, a checkpoint small, and the distance travelled a metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
        norm, base = _norm(self.deltas), _norm(self.encoder.parameters[name] for name in self.names)
        largest = torch.stack([torch.stack(torch.aminmax(delta)).abs().max() for delta in self.deltas]).max()
        return {
            "displacement/norm": norm,
            "displacement/relative": norm / base,
            "displacement/max": float(largest),
        }


def _norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm of all entries, in float64 from the rows' norms: in one pass, without a float64 copy."""
    return float(torch.cat([torch.linalg.vector_norm(tensor, dim=-1).double().flatten() for tensor in tensors]).norm())
