"""Stores outcomes on disk, one bit for each triplet. Intervals, figures and model cards are computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray.model import checkpoint


@dataclass(frozen=True)
class Outcomes:
    """Discordance (bool) of each set's triplets, `[n]` or for XNLI `[n, 2, L, L]`, by the displacement's scale.

    `languages` are those of the XNLI sets.
    """

    by_scale: Mapping[float, Mapping[str, Tensor]]
    languages: Mapping[str, list[str]]


def save(path: Path, outcomes: Outcomes) -> None:
    """Write outcomes atomically."""
    tensors, shapes = {}, {}
    for scale, sets in outcomes.by_scale.items():
        for name, tensor in sets.items():
            key = f"{scale!r}/{name}"  # `repr` is exact: outcomes are looked up by the scale's value
            tensors[key] = torch.from_numpy(np.packbits(tensor.numpy().reshape(-1)))
            shapes[key] = list(tensor.shape)
    checkpoint.save(path, checkpoint.Checkpoint(tensors, {"shapes": shapes, "languages": dict(outcomes.languages)}))


def load(path: Path) -> Outcomes | None:
    """Read outcomes. `None` if there are none, or they are damaged."""
    stored = checkpoint.load(path)
    if stored is None:
        return None
    by_scale: dict[float, dict[str, Tensor]] = {}
    for key, shape in stored.values["shapes"].items():
        scale, _, name = key.partition("/")
        bits = np.unpackbits(stored.tensors[key].numpy(), count=int(np.prod(shape)))
        by_scale.setdefault(float(scale), {})[name] = torch.from_numpy(bits.astype(bool)).reshape(shape)
    return Outcomes(by_scale, stored.values["languages"])
