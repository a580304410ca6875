"""Writing an encoder in sentence-transformers' format."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from adiabatic_ray.model.encoder import Encoder, Side, quiet

QUERY_ENCODER, RETRIEVAL_MODEL = "query_encoder", "retrieval_model"


def hand_over(encoder: Encoder, folder: Path, displacement: Mapping[str, Tensor], card: str) -> None:
    """Write the tuned encoder as two models in safetensors, each with the model card as its `README.md`.

    `query_encoder` is the tuned encoder alone. `retrieval_model` is one model with two sides: its `encode_query` is the
    tuned encoder and its `encode_document` the untouched one, to the last bit, so it goes with documents that are
    embedded already.
    """
    save(encoder, folder / QUERY_ENCODER, displacement)
    save_retrieval_model(encoder, folder / RETRIEVAL_MODEL, displacement)
    for name in (QUERY_ENCODER, RETRIEVAL_MODEL):
        (folder / name / "README.md").write_text(card, encoding="utf-8")


def save(encoder: Encoder, folder: Path, displacement: Mapping[str, Tensor] | None = None) -> None:
    """Write the encoder, moved by `displacement` (deltas by name) where given, in safetensors.

    It keeps the prompts, and truncates as queries are truncated.

    The folder loads with `SentenceTransformer(folder)`; `encode_query` and `encode_document` use the prompts.
    """
    module = _side(encoder, "query", displacement or {})
    module.prompts = _prompts(encoder)
    _write(module, folder)


def save_retrieval_model(encoder: Encoder, folder: Path, displacement: Mapping[str, Tensor]) -> None:
    """Write one model whose query side is moved by `displacement` and whose document side is not.

    Each side has its own prompt and maximum length. Plain `encode`, which names no side, takes the untouched one with
    the base's own default prompt (most have none): a system that calls it keeps getting what it got from the base, and
    never stores a document that the tuned encoder embedded.
    """
    from sentence_transformers.base.modules import Router

    query, document = _side(encoder, "query", displacement), _side(encoder, "passage", {})
    both = SentenceTransformer(
        modules=[Router.for_query_document(list(query), list(document), default_route="document")],
        device="cpu",
        prompts=_prompts(encoder),
        default_prompt_name=encoder.module.default_prompt_name,
        similarity_fn_name=encoder.module.similarity_fn_name,
        truncate_dim=encoder.module.truncate_dim,
    )
    _write(both, folder)


def _side(encoder: Encoder, side: Side, displacement: Mapping[str, Tensor]) -> SentenceTransformer:
    """A copy of the encoder on the CPU, moved, that truncates as this side does."""
    module = copy.deepcopy(encoder.module).cpu().eval()
    weights = dict(module.named_parameters())
    with torch.no_grad():
        for name, delta in displacement.items():
            weights[encoder.full_names[name]].add_(delta.cpu())
    module.max_seq_length = encoder.max_length[side]
    return module


def _prompts(encoder: Encoder) -> dict[str, str]:
    """The base's prompts, with those in use as `query` and as `document` (E5's users know it as `passage`)."""
    query, passage = encoder.prompts["query"], encoder.prompts["passage"]
    return {**encoder.module.prompts, "query": query, "document": passage, "passage": passage}


def _write(module: SentenceTransformer, folder: Path) -> None:
    with quiet():
        module.save(str(folder), safe_serialization=True, create_model_card=False)
