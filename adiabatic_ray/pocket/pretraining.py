"""Training the pocket encoder: a three-layer BERT that learns to embed parallel sentences side by side."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors

from adiabatic_ray import config
from adiabatic_ray.model import encoder, export
from adiabatic_ray.pocket import world

STEPS = 120
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
WARMUP_STEPS = 20
TEMPERATURE = 0.05
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SHAPE = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "max_position_embeddings": 64,
}


def train(folder: Path) -> Iterator[tuple[int, int]]:
    """Write a trained encoder to `folder`, yielding (step, steps)."""
    tokenizer_file = folder / "tokenizer.json"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(tokenizer_file))
    encoder.initialise(folder, tokenizer_file, seed=0, **SHAPE)
    model = encoder.load(config.Model(name=str(folder)))
    model.module.requires_grad_(True)  # and no dropout: there is little time, and fresh data at every step
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=LEARNING_RATE)
    rng = random.Random("pretraining")  # noqa: S311 - not cryptography
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS)
        optimizer.zero_grad()
        _loss(model, rng).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.module.parameters(), 1.0)
        optimizer.step()
        yield step + 1, STEPS
    export.save(model, folder)


def _loss(model: encoder.Encoder, rng: random.Random) -> torch.Tensor:
    """InfoNCE, in both directions, between scenes in one language and the same or abridged scenes in another."""
    scenes = [world.any_scene(rng) for _ in range(BATCH_SIZE)]
    shorter = [world.abridged(rng, scene) if rng.random() < 0.6 else scene for scene in scenes]
    sides = []
    for told in (scenes, shorter):
        texts = [world.sentence(scene, rng.choice(world.LANGUAGES)) for scene in told]
        sides.append(model.embed(model.collate(model.tokenize(texts, "query"))))
    scores = sides[0] @ sides[1].T / TEMPERATURE
    target = torch.arange(BATCH_SIZE)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(scores, target) + cross_entropy(scores.T, target)) / 2


def tokenizer() -> tokenizers.Tokenizer:
    """A WordPiece vocabulary of every word that the pocket world says, and of characters for all others.

    A vocabulary that tokenizers' own trainer learned would differ from run to run, and with it the whole world.
    """
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {word for text in world.texts() for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    characters = sorted(set("".join(words)))
    entries = dict.fromkeys([*SPECIAL, *characters, *(f"##{c}" for c in characters), *sorted(words)])
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    found = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    found.normalizer = normalizer
    found.pre_tokenizer = splitter
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(entry, vocabulary[entry]) for entry in ("[CLS]", "[SEP]")]
    )
    return found
