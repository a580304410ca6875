"""Writes encoders in sentence-transformers' format."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from adiabatic_ray.model import low_rank, tokens
from adiabatic_ray.model.encoder import Encoder, Side, Weights, quiet
from adiabatic_ray.trials.layout import ExportFolder


def hand_over(encoder: Encoder, folder: ExportFolder, weights: Weights, card: str) -> None:
    """Write the encoder with tuned `weights` as two models in safetensors, each with `card` as its `README.md`.

    `query_encoder` is the tuned encoder alone. `retrieval_model` is one model with two sides: `encode_query` runs the
    tuned encoder and `encode_document` the untouched one, to the last bit. So it fits documents that are embedded
    already.
    """
    save(encoder, folder.query_encoder, weights)
    save_retrieval_model(encoder, folder.retrieval_model, weights)
    for model in (folder.query_encoder, folder.retrieval_model):
        (model / "README.md").write_text(card, encoding="utf-8")


def load(folder: Path) -> SentenceTransformer:
    """Load an exported model, on the device that sentence-transformers chooses."""
    with quiet():
        return SentenceTransformer(str(folder))


def save(encoder: Encoder, folder: Path, weights: Weights | None = None) -> None:
    """Write the encoder in safetensors, with `weights` (by name) in place of its own if given.

    `SentenceTransformer(folder)` loads it. `encode_query` and `encode_document` use the prompts, and both truncate at
    the maximum length of queries.
    """
    module = _side(encoder, "query", weights or {})
    module.prompts = _prompts(encoder)
    _write(module, folder)


def save_retrieval_model(encoder: Encoder, folder: Path, weights: Weights) -> None:
    """Write one model whose query side has the tuned `weights` and whose document side is untouched.

    Each side has its own prompt and maximum length. Plain `encode` uses the untouched side with the base's own default
    prompt (most models have none). So a system that calls `encode` gets the same embeddings as from the base, and never
    stores a document that the tuned encoder embedded.
    """
    from sentence_transformers.base.modules import Router

    query, document = _side(encoder, "query", weights), _side(encoder, "passage", {})
    both = SentenceTransformer(
        modules=[Router.for_query_document(list(query), list(document), default_route="document")],
        device="cpu",
        prompts=_prompts(encoder),
        default_prompt_name=encoder.module.default_prompt_name,
        similarity_fn_name=encoder.module.similarity_fn_name,
        truncate_dim=encoder.module.truncate_dim,
    )
    _write(both, folder)


def save_adapter(encoder: Encoder, folder: Path, factors: Weights, scale: float, card: str) -> None:
    """Write a displacement of low rank times `scale` as a LoRA adapter for the untouched encoder, in peft's format.

    `SentenceTransformer(folder)` loads both where the base's name leads to it. Else the adapter is put on a base that
    was loaded: `base.load_adapter(folder)`, or `peft.PeftModel.from_pretrained(base[0].auto_model, folder)`.
    """
    import peft

    of_a = {name.removesuffix(low_rank.A): tensor for name, tensor in factors.items() if name.endswith(low_rank.A)}
    rank = len(next(iter(of_a.values())))
    module = _side(encoder, "query", {})
    module.prompts = _prompts(encoder)
    targets = {name: name.removesuffix(".weight") for name in of_a}
    revision = encoder.settings.revision
    module.add_adapter(
        peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets.values()), revision=revision)
    )
    own = dict(module[0].auto_model.named_parameters())
    with torch.no_grad():
        for name, target in targets.items():
            own[f"{target}.lora_A.default.weight"].copy_(of_a[name])
            own[f"{target}.lora_B.default.weight"].copy_(scale * factors[name + low_rank.B])
    _write(module, folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _side(encoder: Encoder, side: Side, weights: Weights) -> SentenceTransformer:
    """A copy of the encoder on the CPU, with `weights` in place of its own and the maximum length of `side`."""
    module = copy.deepcopy(encoder.sides[side]).cpu().eval()
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            own[encoder.full_names[name]].copy_(weight)
    tokens.set_max_length(module, encoder.max_length[side])
    return module


def _prompts(encoder: Encoder) -> dict[str, str]:
    """The base's prompts, with those in use as `query` and as `document` (which E5 calls `passage`)."""
    query, passage = encoder.prompts["query"], encoder.prompts["passage"]
    return {**encoder.module.prompts, "query": query, "document": passage, "passage": passage}


def _write(module: SentenceTransformer, folder: Path) -> None:
    with quiet():
        module.save(str(folder), safe_serialization=True, create_model_card=False)
