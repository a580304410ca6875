"""A query encoder as the untouched weights plus a float32 displacement.

Weights in float32 cannot hold the steps of adiabatic tuning: at a learning rate of 2e-8 a step is below the spacing of
the numbers around a LayerNorm weight of 1, and is rounded away. A separate displacement that starts at zero keeps such
steps. It has more advantages: a frozen parameter has no displacement, weight decay pulls back to the untouched weights,
checkpoints are small, and the distance from the untouched weights is a metric. It can also be of low rank, which takes
less memory: see `model.low_rank`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from adiabatic_ray import errors
from adiabatic_ray.model import freezing, low_rank
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.model.tokens import Features


def trained(encoder: Encoder, mask: str, rank: int | None = None) -> list[str]:
    """The names of the weights that a displacement moves: what the mask leaves, and of low rank its linear maps.

    Raises:
        MaskError: the mask does not fit the encoder, or leaves no linear map to a displacement of low rank.
    """
    names = freezing.trainable(mask, encoder.parameters, encoder.roles)
    if rank is None:
        return names
    matrices = low_rank.matrices(encoder.transformer, names)
    if not matrices:
        raise errors.MaskError(
            f"train.rank: a displacement of low rank moves the linear maps of the transformer, and the mask {mask!r} "
            "leaves none of them. Freeze less, or leave `rank` out."
        )
    return matrices


class Displacement(nn.Module):
    """An encoder on the weights `base + delta`. Only `delta` is trained, and frozen parameters have none.

    `deltas` is what is trained, by `names`: a displacement for each weight, or with a `rank` its two factors, which
    `seed` draws. The encoder is shared. It is not a submodule, so nothing here can move or change its weights.
    """

    def __init__(self, encoder: Encoder, names: Sequence[str], rank: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self._shared = (encoder,)  # a tuple hides it from nn.Module's registration
        self.base = {name: encoder.parameters[name] for name in names}
        if rank is None:
            begin = {name: torch.zeros_like(weight) for name, weight in self.base.items()}
        else:
            begin = low_rank.factors(self.base, rank, seed)
        self.names, self.deltas = list(begin), nn.ParameterList(begin.values())

    @property
    def encoder(self) -> Encoder:
        return self._shared[0]

    def weights(self, scale: float = 1.0) -> dict[str, Tensor]:
        """`base + scale * delta` by name, differentiable in the deltas."""
        return moved(self.base, self._trained(), scale)

    def forward(self, features: Features) -> Tensor:
        """Embeddings `[b, d]` of a batch.

        Raises:
            ModelError: a linear map cannot be moved by a displacement of low rank.
        """
        if not low_rank.is_factored(self.names):
            return self.encoder.embed(features, self.weights())
        with low_rank.added(self.encoder.transformer, self._trained()):
            return self.encoder.embed(features)

    def _trained(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.deltas, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """A copy of what is trained by name, on the CPU."""
        return {name: delta.detach().to("cpu", copy=True) for name, delta in self._trained().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a stored displacement, which must have the names of what is trained."""
        for name, delta in self._trained().items():
            delta.copy_(tensors[name])

    @torch.no_grad()
    def norms(self) -> dict[str, float]:
        """How far the weights have moved: the displacement's Euclidean norm and its largest entry.

        `displacement/relative` is the norm divided by the norm of the same base weights.
        """
        rows, largest = [], []
        for _, delta in low_rank.products(self._trained()):
            rows.append(_row_norms(delta))
            largest.append(torch.stack(torch.aminmax(delta)).abs().max())
        norm, base = _norm(rows), _norm(_row_norms(weight) for weight in self.base.values())
        return {
            "displacement/norm": norm,
            "displacement/relative": norm / base,
            "displacement/max": float(torch.stack(largest).max()),
        }


def moved(base: Mapping[str, Tensor], deltas: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """`base + scale * delta` by name, for the weights that `deltas` move, on the base's device.

    Training, evaluation, confirmation and export all use this function, so their weights are the same to the last bit.
    The product is rounded before the sum: one fused operation would give different results on different devices. (Low
    rank is trained without it, and `B A` may differ in its last bits from one device to another.)
    """
    device = next(iter(base.values())).device
    here = low_rank.products({name: delta.to(device) for name, delta in deltas.items()})
    return {name: base[name] + (delta if scale == 1 else scale * delta) for name, delta in here}


def _row_norms(tensor: Tensor) -> Tensor:
    """The Euclidean norms of a weight's rows in float64, without a float64 copy of the weight."""
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=-1)
    return norms.double().flatten()


def _norm(rows: Iterable[Tensor]) -> float:
    return float(torch.cat(list(rows)).norm())
