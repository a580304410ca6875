"""The memory of a trial on a GPU, counted for encoders that people run: `python -m tests.benchmarks.memory`.

Nothing is loaded: the encoders have the shapes of those on the hub, and no weights (torch's device `meta`). Everything
is float32, and `embeddings` is frozen. Displacements are full or of rank 8. Activations are those of queries of 64
tokens.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import transformers
from torch.func import functional_call

from adiabatic_ray.model import freezing, low_rank, roles
from adiabatic_ray.train import memory

TOKENS, BATCH, RANK = 64, 14, 8
GPUS, RESERVED = (24, 40, 80), 1  # GB, of which CUDA and its libraries take about so much
XLM_R = {"vocab_size": 250_002, "max_position_embeddings": 514}
SHAPES: dict[str, Any] = {
    "multilingual-e5-small": transformers.BertConfig(
        vocab_size=250_037, hidden_size=384, num_hidden_layers=12, num_attention_heads=12, intermediate_size=1536
    ),
    "multilingual-e5-base": transformers.XLMRobertaConfig(**XLM_R),
    "multilingual-e5-large": transformers.XLMRobertaConfig(
        **XLM_R, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "Qwen3-Embedding-0.6B": transformers.Qwen3Config(
        vocab_size=151_669,
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
    ),
}


def of(shape: Any, rank: int | None) -> memory.Memory:
    """The memory of a step with one batch."""
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(shape).eval().requires_grad_(False)
        ids = torch.ones(BATCH, TOKENS, dtype=torch.long)
    named = dict(model.named_parameters())
    names = freezing.trainable("embeddings", named, roles.find(model, named))
    if rank is not None:
        names = low_rank.matrices(model, names)
    weights = {name: named[name].clone().requires_grad_() for name in names} if rank is None else {}
    trained = weights or low_rank.factors({name: named[name] for name in names}, RANK, seed=0)
    trained = {name: tensor.requires_grad_() for name, tensor in trained.items()}

    def forward() -> torch.Tensor:
        with low_rank.added(model, {} if weights else trained):
            result: torch.Tensor = functional_call(model, weights, (), {"input_ids": ids}).last_hidden_state
        return result

    saved = memory.saved_bytes(forward, without=[*named.values(), *trained.values()])
    every = 4 * sum(p.numel() for p in named.values())
    return memory.Memory(every, memory.of_displacement(weights.values(), trained.values()), saved)


def main() -> None:
    largest = " ".join(f"{f'{gpu} GB':>7}" for gpu in GPUS)
    print(f"{'GiB':24} weights  displacement, optimiser  activations of {BATCH} queries   largest batch: {largest}")
    for (name, shape), rank in itertools.product(SHAPES.items(), (None, RANK)):
        one = of(shape, rank)
        fixed, each = one.weights + one.displacement, one.activations / BATCH
        fitting = [int(((gpu - RESERVED) * 1e9 - fixed) // each) for gpu in GPUS]
        gib = [value / 2**30 for value in (one.weights, one.displacement, one.activations)]
        label = name if rank is None else f"  rank {rank}"
        print(f"{label:24} {gib[0]:7.2f} {gib[1]:24.2f} {gib[2]:26.2f} {'':15}" + " ".join(f"{n:>7,}" for n in fitting))


if __name__ == "__main__":
    main()
