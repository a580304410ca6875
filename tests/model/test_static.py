"""Encoders that are a table of token embeddings: sentence-transformers' own, model2vec's, and one side of a Router."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from adiabatic_ray import config, errors
from adiabatic_ray.model import export
from adiabatic_ray.model.displacement import trained
from adiabatic_ray.trials.layout import ExportFolder
from tests.model.test_sides import TEXTS, load, oracle, tuned

TABLE = "0.embedding.weight"


def tokenizer(pocket: Path) -> Tokenizer:
    return Tokenizer.from_file(str(pocket / "encoder" / "tokenizer.json"))


def table(pocket: Path, dimension: int) -> np.ndarray:
    size = tokenizer(pocket).get_vocab_size(), dimension
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32)


def own(pocket: Path, folder: Path) -> Path:
    """In sentence-transformers' layout, with prompts."""
    static = StaticEmbedding(tokenizer(pocket), embedding_weights=table(pocket, 32))
    prompts = {"query": "who: ", "document": "the text: "}
    model = SentenceTransformer(modules=[static, Normalize()], device="cpu", prompts=prompts)
    model.save(str(folder), create_model_card=False)
    return folder


def of_model2vec(pocket: Path, folder: Path) -> Path:
    """As model2vec saves it."""
    StaticModel(table(pocket, 32), tokenizer(pocket), config={}).save_pretrained(folder)
    return folder


def beside_a_transformer(pocket: Path, folder: Path) -> Path:
    """A Router whose query side is a table, and whose documents are embedded by a transformer."""
    static = StaticEmbedding(tokenizer(pocket), embedding_weights=table(pocket, 96))
    document = list(SentenceTransformer(str(pocket / "encoder"), device="cpu"))
    router = Router.for_query_document([static, Normalize()], document)
    SentenceTransformer(modules=[router], device="cpu").save(str(folder), create_model_card=False)
    return folder


MADE = {one.__name__: one for one in (own, of_model2vec, beside_a_transformer)}


@pytest.mark.parametrize("kind", MADE)
def test_two_sweeps_on_top_of_each_other(kind: str, pocket: Path, tmp_path: Path) -> None:
    base = MADE[kind](pocket, tmp_path / "base")
    documents = oracle(base, "passage")
    assert (oracle(base, "query") - documents).abs().max() > 1e-2 or kind == "of_model2vec"
    for sweep in ("first", "second"):
        model = load(base)
        assert list(model.parameters) == [TABLE]
        assert (model.encode(TEXTS, "query") - oracle(base, "query")).abs().max() < 1e-5
        assert (model.encode(TEXTS, "passage") - documents).abs().max() < 1e-5
        weights = tuned(model, pocket, "none")
        assert not torch.equal(weights[TABLE], model.parameters[TABLE])
        export.hand_over(model, ExportFolder(tmp_path / sweep), weights, "card")
        base = tmp_path / sweep / "retrieval_model"
        expected = model.encode(TEXTS, "query", weights)
        assert (expected - model.encode(TEXTS, "query")).abs().max() > 1e-4
        assert (oracle(base, "query") - expected).abs().max() < 1e-5
        assert torch.equal(oracle(base, "passage"), documents)


def test_model2vec_embeds_the_same(pocket: Path, tmp_path: Path) -> None:
    folder = of_model2vec(pocket, tmp_path / "base")
    theirs = torch.from_numpy(StaticModel.from_pretrained(folder).encode(TEXTS))
    ours = load(folder).encode(TEXTS, "query")
    assert (ours - torch.nn.functional.normalize(theirs)).abs().max() < 1e-5


def test_a_maximum_length_is_measured_and_handed_over(pocket: Path, tmp_path: Path) -> None:
    folder = own(pocket, tmp_path / "base")
    short = load(folder, max_length=config.Lengths(query=4, passage=6))
    assert (short.encode(TEXTS, "query") - load(folder).encode(TEXTS, "query")).abs().max() > 1e-2
    export.hand_over(short, ExportFolder(tmp_path / "out"), {}, "card")
    both = tmp_path / "out" / "retrieval_model"
    assert (oracle(both, "query") - short.encode(TEXTS, "query")).abs().max() < 1e-5
    assert (oracle(both, "passage") - short.encode(TEXTS, "passage")).abs().max() < 1e-5
    assert load(both).max_length == {"query": 4, "passage": 6}


def test_masks(pocket: Path, tmp_path: Path) -> None:
    """The default freezes all that there is, and what is said names the way out."""
    model = load(own(pocket, tmp_path / "base"))
    with pytest.raises(errors.MaskError, match=r"nothing is left to train; `none` freezes nothing"):
        trained(model, config.Train(data=config.Source(path="x"), steps=1).freeze)
    with pytest.raises(errors.MaskError, match=r"train\.rank: .* leaves none of them"):
        trained(model, "none", 4)
