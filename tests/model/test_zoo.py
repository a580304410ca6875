"""Every architecture from loading to two sweeps on top of each other, against sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling

from adiabatic_ray.model import export
from adiabatic_ray.model.displacement import Displacement, trained
from adiabatic_ray.model.encoder import Encoder, quiet
from adiabatic_ray.trials.layout import ExportFolder
from tests.model.test_roles import MODELS
from tests.model.test_sides import TEXTS, load, oracle, trainable, tuned

DECODERS = ("qwen2", "qwen3", "gemma3", "mistral", "llama")
POOLINGS = ("cls", "max", "weightedmean", "mean_sqrt_len_tokens", "lasttoken")
KINDS = [*MODELS, *(f"bert, {pooling}" for pooling in POOLINGS), "bert, dense"]
MASK = "embeddings+feed_forward.output"


def saved(kind: str, pocket: Path, folder: Path) -> Path:
    """An encoder of random weights with the pocket world's tokenizer, as sentence-transformers saves it."""
    architecture, _, variant = kind.partition(", ")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(pocket / "encoder"))
    torch.manual_seed(0)
    with quiet():
        model: Any = MODELS[architecture]()
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(str(folder / "plain"))
        tokenizer.save_pretrained(str(folder / "plain"))
        transformer = Transformer(str(folder / "plain"))
        transformer.max_seq_length = 32
        mode = variant if variant in POOLINGS else "lasttoken" if architecture in DECODERS else "mean"
        modules = [transformer, Pooling(transformer.get_embedding_dimension(), mode)]
        if variant == "dense":
            modules.append(Dense(transformer.get_embedding_dimension(), 12, activation_function=torch.nn.Tanh()))
        prompts = {"query": "who: ", "document": "the text: "}
        whole = SentenceTransformer(modules=[*modules, Normalize()], device="cpu", prompts=prompts)
        whole.save(str(folder / "base"), create_model_card=False)
    return folder / "base"


def difference_of_low_rank(model: Encoder) -> float:
    """Between a random displacement's factors, each added in its linear map, and their products in the weights."""
    displacement = Displacement(model, trained(model, MASK, 2), 2)
    with torch.no_grad():
        for delta in displacement.deltas:
            delta.copy_(0.1 * torch.randn(delta.shape, generator=torch.Generator().manual_seed(0)))
        features = model.collate(model.tokenize(TEXTS, "query"))
        untouched, added = model.embed(features), displacement(features)
        assert (added - untouched).abs().max() > 1e-4
        return float((added - model.embed(features, displacement.weights())).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_sweeps_on_top_of_each_other(kind: str, pocket: Path, tmp_path: Path) -> None:
    base = saved(kind, pocket, tmp_path)
    documents = oracle(base, "passage")
    for sweep in ("first", "second"):
        model = load(base)
        assert (model.encode(TEXTS, "query") - oracle(base, "query")).abs().max() < 1e-5
        assert (model.encode(TEXTS, "passage") - documents).abs().max() < 1e-5
        assert difference_of_low_rank(model) < 1e-5
        weights = tuned(model, pocket, MASK)
        moved = [name for name, weight in weights.items() if not torch.equal(weight, model.parameters[name])]
        assert moved
        assert set(moved) <= set(trainable(model, MASK))
        export.hand_over(model, ExportFolder(tmp_path / sweep), weights, "card")
        base = tmp_path / sweep / "retrieval_model"
        expected = model.encode(TEXTS, "query", weights)
        assert (oracle(base, "query") - expected).abs().max() < 1e-5
        assert torch.equal(oracle(base, "passage"), documents)
