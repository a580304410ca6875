"""Stores outcomes on disk, one bit for each triplet, or a number for each query that is ranked for.

Intervals, figures and model cards are computed from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray.data.sets import Rows
from adiabatic_ray.evaluate.evidence import Evidence
from adiabatic_ray.model import checkpoint


@dataclass(frozen=True)
class Outcomes:
    """What was measured of each unit, by the displacement's scale and by key (see `benchmark.Measurement`).

    Discordance (bool) is `[n]`, or for XNLI `[n, 2, L, L]`; a ranking metric (float32) is `[n]`. `languages` are those
    of the sets that have them, by key, and `language` `[n]` is that of each unit where each has one.
    """

    by_scale: Mapping[float, Mapping[str, Tensor]]
    languages: Mapping[str, list[str]]
    language: Mapping[str, Rows] = field(default_factory=dict)

    def evidence(self, key: str, scale: float, base: Outcomes) -> Evidence | None:
        """What the outcomes of a key say against those of the untouched encoder; `None` where either has none."""
        before, after = base.by_scale.get(1.0, {}).get(key), self.by_scale.get(scale, {}).get(key)
        if before is None or after is None:
            return None
        return Evidence(before, after, base.languages.get(key, []), base.language.get(key))


def save(path: Path, outcomes: Outcomes) -> None:
    """Write outcomes atomically."""
    tensors, shapes = {}, {}
    for scale, sets in outcomes.by_scale.items():
        for name, tensor in sets.items():
            key = f"{scale!r}/{name}"  # `repr` is exact: outcomes are looked up by the scale's value
            bits = tensor.dtype == torch.bool
            tensors[key] = torch.from_numpy(np.packbits(tensor.numpy().reshape(-1))) if bits else tensor.contiguous()
            shapes[key] = list(tensor.shape)
    values = {
        "shapes": shapes,
        "languages": dict(outcomes.languages),
        "language": {key: rows.tolist() for key, rows in outcomes.language.items()},
    }
    checkpoint.save(path, checkpoint.Checkpoint(tensors, values))


def load(path: Path) -> Outcomes | None:
    """Read outcomes. `None` if there are none, or they are damaged."""
    stored = checkpoint.load(path)
    if stored is None:
        return None
    by_scale: dict[float, dict[str, Tensor]] = {}
    for key, shape in stored.values["shapes"].items():
        scale, _, name = key.partition("/")
        tensor = stored.tensors[key]
        if tensor.dtype == torch.uint8:
            bits = np.unpackbits(tensor.numpy(), count=int(np.prod(shape)))
            tensor = torch.from_numpy(bits.astype(bool)).reshape(shape)
        by_scale.setdefault(float(scale), {})[name] = tensor
    # Earlier versions stored no language of units.
    language = {key: np.array(rows, dtype=np.int64) for key, rows in stored.values.get("language", {}).items()}
    return Outcomes(by_scale, stored.values["languages"], language)
