"""Writing an encoder in sentence-transformers' format."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from adiabatic_ray.model.encoder import Encoder, quiet

QUERY_ENCODER = "query_encoder"


def hand_over(encoder: Encoder, folder: Path, displacement: Mapping[str, Tensor], card: str) -> None:
    """Write the tuned query encoder to the folder's `query_encoder`, with its model card."""
    save(encoder, folder / QUERY_ENCODER, displacement)
    (folder / QUERY_ENCODER / "README.md").write_text(card, encoding="utf-8")


def save(encoder: Encoder, folder: Path, displacement: Mapping[str, Tensor] | None = None) -> None:
    """Write the encoder, moved by `displacement` (deltas by name) where given, in safetensors.

    It keeps the prompts, and truncates as queries are truncated.

    The folder loads with `SentenceTransformer(folder)`; `encode_query` and `encode_document` use the prompts.
    """
    module = copy.deepcopy(encoder.module).cpu().eval()
    weights = dict(module.named_parameters())
    with torch.no_grad():
        for name, delta in (displacement or {}).items():
            weights[encoder.full_names[name]].add_(delta)
    module.max_seq_length = encoder.max_length["query"]
    module.prompts = {"query": encoder.prompts["query"], "document": encoder.prompts["passage"]}
    with quiet():
        module.save(str(folder), safe_serialization=True, create_model_card=False)
