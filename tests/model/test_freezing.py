"""Masks against lists written by hand."""

from __future__ import annotations

import pytest

from adiabatic_ray import errors
from adiabatic_ray.model import freezing

# The names of a two-layer BERT, written out.
EMBEDDINGS = [
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
    "embeddings.LayerNorm.weight",
    "embeddings.LayerNorm.bias",
]
LAYER = [
    "attention.self.query.weight",
    "attention.self.query.bias",
    "attention.self.key.weight",
    "attention.self.key.bias",
    "attention.self.value.weight",
    "attention.self.value.bias",
    "attention.output.dense.weight",
    "attention.output.dense.bias",
    "attention.output.LayerNorm.weight",
    "attention.output.LayerNorm.bias",
    "intermediate.dense.weight",
    "intermediate.dense.bias",
    "output.dense.weight",
    "output.dense.bias",
    "output.LayerNorm.weight",
    "output.LayerNorm.bias",
]
LAYERS = [0, 1, 10]
NAMES = EMBEDDINGS + [f"encoder.layer.{i}.{name}" for i in LAYERS for name in LAYER]

FROZEN = {
    "none": [],
    "embeddings": EMBEDDINGS,
    "embeddings+output.dense.weight": [
        *EMBEDDINGS,
        *(f"encoder.layer.{i}.attention.output.dense.weight" for i in LAYERS),
        *(f"encoder.layer.{i}.output.dense.weight" for i in LAYERS),
    ],
    "embeddings + layer.*.output.dense.weight": [
        *EMBEDDINGS,
        *(f"encoder.layer.{i}.output.dense.weight" for i in LAYERS),
    ],
    "attention.output.dense.weight": [f"encoder.layer.{i}.attention.output.dense.weight" for i in LAYERS],
    "layer.1": [f"encoder.layer.1.{name}" for name in LAYER],
    "layer.0-5": [f"encoder.layer.{i}.{name}" for i in (0, 1) for name in LAYER],
    "word_embeddings": ["embeddings.word_embeddings.weight"],
    "layer.10.*.LayerNorm": [f"encoder.layer.10.output.LayerNorm.{kind}" for kind in ("weight", "bias")],
    "self.*.bias": [
        f"encoder.layer.{i}.attention.self.{part}.bias" for i in LAYERS for part in ("query", "key", "value")
    ],
}


@pytest.mark.parametrize("mask", FROZEN)
def test_mask_freezes_what_it_says(mask: str) -> None:
    left = freezing.trainable(mask, NAMES, {})
    assert sorted(set(NAMES) - set(left)) == sorted(FROZEN[mask])
    assert left == [name for name in NAMES if name in left]  # in order


def test_matches_are_listed_by_pattern() -> None:
    assert freezing.matches("word_embeddings+layer.1.output.dense.bias", NAMES, {}) == {
        "word_embeddings": ["embeddings.word_embeddings.weight"],
        "layer.1.output.dense.bias": ["encoder.layer.1.output.dense.bias"],
    }


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("embedding", r"the pattern `embedding` of 'embedding' matches no parameter. Names look like `embeddings\."),
        ("embeddings+layer.7", r"the pattern `layer.7` of 'embeddings\+layer.7' matches no parameter"),
        ("layer.5-9", r"matches no parameter"),
        ("embeddings+", r"is not a mask; expected `none` or patterns joined with `\+`"),
        ("none+embeddings", r"is not a mask"),
        ("embeddings+encoder", r"freezes every parameter, so that nothing is left to train"),
    ],
)
def test_masks_that_say_nothing(mask: str, message: str) -> None:
    with pytest.raises(errors.MaskError, match=message):
        freezing.trainable(mask, NAMES, {})


def test_a_message_names_the_roles() -> None:
    own = {"embeddings": EMBEDDINGS, "layers.0": NAMES[5:21], "layers.1": NAMES[21:37]}
    with pytest.raises(errors.MaskError, match=r"`shared` .* roles are `embeddings`, `layers.0-1`\."):
        freezing.trainable("shared", NAMES, own)
