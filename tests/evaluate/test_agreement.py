"""Stored embeddings that are not those of the encoder are refused, and the usual causes are named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers.util import quantize_embeddings
from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.data import stored
from adiabatic_ray.evaluate import agreement
from adiabatic_ray.model import encoder as encoders
from adiabatic_ray.model.encoder import Encoder


@pytest.fixture(scope="module")
def texts(pocket: Path) -> list[str]:
    lines = (pocket / "archive" / "en" / "corpus.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines[:60]]


def load(pocket: Path, **settings: object) -> Encoder:
    return encoders.load(config.Model(name=str(pocket / "encoder"), **settings), compare=False)  # type: ignore[arg-type]


def measure(vectors: Tensor, texts: list[str], model: Encoder, folder: Path, ranges: Tensor | None = None) -> float:
    np.save(folder / "v.npy", vectors.numpy())
    source = config.Embeddings(path=str(folder / "v.npy"))
    if ranges is not None:
        np.save(folder / "ranges.npy", ranges.numpy())
        source = dataclasses.replace(source, ranges=str(folder / "ranges.npy"))
    store = stored.open_store("docs", source, model.dimension)
    rows = np.arange(len(texts))
    return agreement.measure("docs", texts, stored.Stored(source, rows), store, model)


def test_its_own_embeddings_agree_in_every_precision(encoder: Encoder, texts: list[str], tmp_path: Path) -> None:
    own = encoder.encode(texts, "passage")
    assert measure(own, texts, encoder, tmp_path) > 0.9999
    assert measure(own.half(), texts, encoder, tmp_path) > 0.9999
    assert measure(3 * own, texts, encoder, tmp_path) > 0.9999  # cosines do not see lengths
    ranges = torch.stack([own.min(0).values, own.max(0).values])
    rounded = quantize_embeddings(own.numpy(), precision="int8", ranges=ranges.numpy())
    assert measure(torch.from_numpy(rounded), texts, encoder, tmp_path, ranges) > 0.999
    bits = quantize_embeddings(own.numpy(), precision="ubinary")
    assert measure(torch.from_numpy(bits), texts, encoder, tmp_path) == pytest.approx(1.0)


CAUSES: dict[str, tuple[dict[str, object], str]] = {
    "prompt": (
        {"prompts": config.Sides(passage="passage: ")},
        r"with the prompt 'passage: ': give `model.prompts.passage: 'passage: '`",
    ),
    "length": (
        {"max_length": config.Lengths(passage=16)},
        r"when passages are cut after 16 tokens: give `model.max_length.passage: 16`",
    ),
    "pooling": ({"pooling": "cls"}, r"with another pooling: give `model.pooling: cls`"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_other_settings_are_found(cause: str, pocket: Path, texts: list[str], encoder: Encoder, tmp_path: Path) -> None:
    settings, message = CAUSES[cause]
    with pytest.raises(errors.DataError, match=r"docs: .*v.npy are not those of this encoder: .*They agree " + message):
        measure(load(pocket, **settings).encode(texts, "passage"), texts, encoder, tmp_path)


def other(own: Tensor) -> Tensor:
    return torch.randn(own.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.roll(1, 0), r"each passage is 1 row later: the rows are shifted, such as by a header"),
        (lambda own: own.roll(-2, 0), r"each passage is 2 rows earlier"),
        (lambda own: own.flip(0), r"in another order: give `embeddings.ids`"),
        (other, r"so another model or another revision made them: `model.name` and `model.revision`"),
    ],
)
def test_other_rows_are_found(
    change: Callable[[Tensor], Tensor], message: str, texts: list[str], encoder: Encoder, tmp_path: Path
) -> None:
    with pytest.raises(errors.DataError, match=message):
        measure(change(encoder.encode(texts, "passage")), texts, encoder, tmp_path)


def test_lengths_count_where_dot_products_do(pocket: Path, texts: list[str], tmp_path: Path) -> None:
    model = load(pocket, similarity="dot")
    own = model.encode(texts, "passage")
    assert measure(own, texts, model, tmp_path) > 0.9999
    with pytest.raises(errors.DataError, match=r"have a length of 1, but those in .* have 2: they were normalised, or"):
        measure(2 * own, texts, model, tmp_path)
