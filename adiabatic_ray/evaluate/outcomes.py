"""Stores outcomes on disk, one bit for each triplet, or a number for each query that is ranked for.

Intervals, figures and model cards are computed from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.data.sets import Languages
from adiabatic_ray.evaluate.evidence import Evidence
from adiabatic_ray.model import checkpoint


@dataclass(frozen=True)
class Outcomes:
    """What was measured of each unit, by the displacement's scale and by key (see `benchmark.Measurement`).

    Discordance (bool) is `[n]`, or for XNLI `[n, 2, L, L]`; a ranking metric (float32) is `[n]`. `languages` are those
    of the queries of sets that have them, by key. `language` and `text_language` are those of each unit where each has
    one (see `Evidence`). `similarity` is what they were ranked by, `None` where an earlier version did not store it.
    """

    by_scale: Mapping[float, Mapping[str, Tensor]]
    languages: Mapping[str, list[str]]
    language: Mapping[str, Languages] = field(default_factory=dict)
    text_language: Mapping[str, Languages] = field(default_factory=dict)
    similarity: config.Similarity | None = None

    def evidence(self, key: str, scale: float, base: Outcomes) -> Evidence | None:
        """What the outcomes of a key say against those of the untouched encoder; `None` where either has none."""
        before, after = base.by_scale.get(1.0, {}).get(key), self.by_scale.get(scale, {}).get(key)
        if before is None or after is None:
            return None
        languages = base.languages.get(key, []), base.language.get(key), base.text_language.get(key)
        return Evidence(before, after, *languages)


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
        "language": {key: one.rows.tolist() for key, one in outcomes.language.items()},
        "text_languages": {key: one.names for key, one in outcomes.text_language.items()},
        "similarity": outcomes.similarity,
        "text_language": {key: one.rows.tolist() for key, one in outcomes.text_language.items()},
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
    language, text_language = (_languages(stored.values, one) for one in ("language", "text_language"))
    similarity = stored.values.get("similarity")
    return Outcomes(by_scale, stored.values["languages"], language, text_language, similarity)


def _languages(values: Mapping[str, Any], field: str) -> dict[str, Languages]:
    """The languages of each set's units; earlier versions stored none."""
    names = values.get(f"{field}s", {})
    return {key: Languages(names[key], np.array(rows, dtype=np.int64)) for key, rows in values.get(field, {}).items()}
