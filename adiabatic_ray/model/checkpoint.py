"""A trial's state on disk: tensors and a few numbers in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adiabatic_ray import storage


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name (`delta/...`, `exp_avg/...`, `exp_avg_sq/...`), and values that JSON can hold."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors named `prefix/...`, by their names without that prefix."""
        start = f"{prefix}/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: a reader sees the old one or the new one, never a part."""
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    metadata = {"values": json.dumps(dict(checkpoint.values))}
    storage.produce(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def load(path: Path) -> Checkpoint | None:
    """Read a checkpoint. `None` if there is none, or it is damaged."""
    try:
        with storage.local(path) as here, safe_open(here, framework="pt") as file:
            values = json.loads(file.metadata()["values"])
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, values)  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, ValueError):
        return None  # a trial whose checkpoint is damaged starts again from the beginning
