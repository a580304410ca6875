"""Roles in every architecture, against lists written by hand from the names of its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import transformers as t
from sentence_transformers.sentence_transformer.modules import Dense
from torch import nn

from adiabatic_ray.model import freezing, roles

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50}
DECODER = {**SHAPE, "num_key_value_heads": 1, "max_position_embeddings": 64}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
DISTIL = {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
MODERN = {**SHAPE, "global_attn_every_n_layers": 2} | dict.fromkeys(
    ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0
)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: t.BertModel(t.BertConfig(**SHAPE)),
    "xlm-roberta": lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**SHAPE)),
    "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**SHAPE)),
    "distilbert": lambda: t.DistilBertModel(t.DistilBertConfig(**DISTIL)),
    "t5": lambda: t.T5EncoderModel(t.T5Config(**T5)),
    "t5 gated": lambda: t.T5EncoderModel(t.T5Config(**T5, feed_forward_proj="gated-gelu")),
    "modernbert": lambda: t.ModernBertModel(t.ModernBertConfig(**MODERN)),
    "qwen2": lambda: t.Qwen2Model(t.Qwen2Config(**DECODER)),
    "qwen3": lambda: t.Qwen3Model(t.Qwen3Config(**DECODER, head_dim=8)),
    "gemma3": lambda: t.Gemma3TextModel(t.Gemma3TextConfig(**DECODER, head_dim=8)),
    "mistral": lambda: t.MistralModel(t.MistralConfig(**DECODER)),
    "llama": lambda: t.LlamaModel(t.LlamaConfig(**DECODER)),
}

BERT = {
    "embeddings": r"embeddings\..*",
    "attention": r"encoder\.layer\.\d\.attention\..*",
    "attention.output": r"encoder\.layer\.\d\.attention\.output\.dense\..*",
    "feed_forward": r"encoder\.layer\.\d\.(intermediate|output)\.dense\..*",
    "feed_forward.output": r"encoder\.layer\.\d\.output\.dense\..*",
    "norms": r".*LayerNorm.*",
    "layers.1": r"encoder\.layer\.1\..*",
    "pooler": r"pooler\..*",
}
LLAMA = {
    "embeddings": r"embed_tokens\.weight",
    "attention": r"layers\.\d\.self_attn\..*",
    "attention.output": r"layers\.\d\.self_attn\.o_proj\.weight",
    "feed_forward": r"layers\.\d\.mlp\..*",
    "feed_forward.output": r"layers\.\d\.mlp\.down_proj\.weight",
    "norms": r".*norm\.weight",
    "layers.1": r"layers\.1\..*",
}
T5_NAMES = {
    "embeddings": r"shared\.weight",
    "attention": r"encoder\.block\.\d\.layer\.0\..*",
    "attention.output": r".*SelfAttention\.o\.weight",
    "feed_forward": r".*DenseReluDense\..*",
    "feed_forward.output": r".*DenseReluDense\.wo\.weight",
    "norms": r".*layer_norm\.weight",
    "layers.1": r"encoder\.block\.1\..*",
}
EXPECTED: dict[str, dict[str, str]] = {
    "bert": BERT,
    "xlm-roberta": BERT,
    "mpnet": BERT | {"attention.output": r"encoder\.layer\.\d\.attention\.attn\.o\..*"},
    "distilbert": {
        "embeddings": r"embeddings\..*",
        "attention": r"transformer\.layer\.\d\.attention\..*",
        "attention.output": r".*attention\.out_lin\..*",
        "feed_forward": r".*ffn\.lin[12]\..*",
        "feed_forward.output": r".*ffn\.lin2\..*",
        "norms": r".*(LayerNorm|layer_norm).*",
        "layers.1": r"transformer\.layer\.1\..*",
    },
    "t5": T5_NAMES,
    "t5 gated": T5_NAMES,
    "modernbert": {
        "embeddings": r"embeddings\..*",
        "attention": r"layers\.\d\.attn\..*",
        "attention.output": r"layers\.\d\.attn\.Wo\.weight",
        "feed_forward": r"layers\.\d\.mlp\..*",
        "feed_forward.output": r"layers\.\d\.mlp\.Wo\.weight",
        "norms": r".*norm\.weight",
        "layers.1": r"layers\.1\..*",
    },
    **dict.fromkeys(("qwen2", "qwen3", "gemma3", "mistral", "llama"), LLAMA),
}


@pytest.mark.parametrize("name", MODELS)
def test_roles_in_each_architecture(name: str) -> None:
    model = MODELS[name]()
    parameters = dict(model.named_parameters())
    found = roles.find(model, parameters)
    for role, pattern in EXPECTED[name].items():
        assert found[role] == [one for one in parameters if re.fullmatch(pattern, one)], role
    assert found.get("biases", []) == [one for one in parameters if one.endswith(".bias")]
    assert {role for role in found if role.startswith("layers.")} == {"layers.0", "layers.1"}


@pytest.mark.parametrize("name", MODELS)
def test_masks_of_roles(name: str) -> None:
    model = MODELS[name]()
    parameters = dict(model.named_parameters())
    found = roles.find(model, parameters)
    left = freezing.trainable("embeddings+layers.0-0", parameters, found)
    assert sorted(left) == sorted(set(parameters) - {*found["embeddings"], *found["layers.0"]})
    assert freezing.matches("layers.0-9", parameters, found)["layers.0-9"] == found["layers.0"] + found["layers.1"]
    # A role does not hide a pattern: names go on to mean what they meant.
    one = found["feed_forward.output"][0]
    assert one in freezing.matches(one, parameters, found)[one]


def test_the_papers_mask_means_what_it_meant() -> None:
    model = MODELS["xlm-roberta"]()
    parameters = dict(model.named_parameters())
    mask = "embeddings+output.dense.weight"
    with_roles = freezing.trainable(mask, parameters, roles.find(model, parameters))
    assert with_roles == freezing.trainable(mask, parameters, {})


def test_dense_modules_of_sentence_transformers() -> None:
    model = nn.Sequential(MODELS["bert"](), Dense(16, 8, activation_function=nn.Tanh()))
    parameters = dict(model.named_parameters())
    assert roles.find(model, parameters)["dense"] == ["1.linear.weight", "1.linear.bias"]


def test_a_model_without_layers() -> None:
    model = nn.Sequential(nn.EmbeddingBag(5, 4), nn.Linear(4, 4))
    parameters = dict(model.named_parameters())
    assert roles.find(model, parameters) == {"embeddings": ["0.weight"], "biases": ["1.bias"]}
    assert roles.find(nn.Sequential(nn.Embedding(5, 4)), {"e": torch.zeros(5, 4)}) == {}
