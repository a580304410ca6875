"""Encoders that embed queries and passages with two modules, and those that rank by dot products."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Dense

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets, sources
from adiabatic_ray.evaluate import discordance, ranking
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.model import encoder as encoders
from adiabatic_ray.model import export
from adiabatic_ray.train import trial
from adiabatic_ray.trials.layout import ExportFolder

TEXTS = ["who reads a book?", "кто читает книгу", "Der Lehrer liest ein Buch in der Bibliothek am Morgen.", ""]


def load(folder: Path, **settings: object) -> encoders.Encoder:
    return encoders.load(config.Model(name=str(folder), **settings))  # type: ignore[arg-type]


def oracle(folder: Path, side: encoders.Side, *, normalised: bool = True) -> torch.Tensor:
    model = SentenceTransformer(str(folder), device="cpu")
    encode = model.encode_query if side == "query" else model.encode_document
    return torch.from_numpy(encode(TEXTS, normalize_embeddings=normalised))


def asymmetric(pocket: Path, folder: Path) -> Path:
    """A Router whose query side has a layer of its own on the encoder that both share, and whose prompts differ."""
    shared = list(SentenceTransformer(str(pocket / "encoder"), device="cpu"))
    torch.manual_seed(0)
    dense = Dense(96, 96, activation_function=torch.nn.Tanh())
    router = Router.for_query_document([*shared, dense], shared)
    model = SentenceTransformer(modules=[router], device="cpu", prompts={"query": "who: ", "document": "text: "})
    model.save(str(folder), create_model_card=False)
    return folder


def tuned(model: encoders.Encoder, pocket: Path, freeze: str) -> dict[str, torch.Tensor]:
    """The weights of a query side after ten steps."""
    data = sources.load("train", config.Source(path=str(pocket / "questions" / "train.jsonl"), limit=60), seed=0)
    assert isinstance(data, sets.Triplets)
    prepared = trial.TrainingData.prepare(data, model.encode(data.passages, "passage"), model)
    settings = config.Train(
        data=config.Source(path="none"), learning_rate=1e-3, batch_size=8, steps=10, evaluations=1, freeze=freeze
    )
    *_, last = trial.run(model, prepared, settings, Benchmark([]).measure, seed=0)
    assert last.displacement is not None
    assert set(last.displacement.tensors()) == set(trainable(model, freeze))
    return last.displacement.weights()


def trainable(model: encoders.Encoder, freeze: str) -> list[str]:
    frozen = [name for role in freeze.split("+") for name in model.roles.get(role, [])]
    return [name for name in model.parameters if name not in frozen]


@pytest.mark.parametrize("kind", ["asymmetric", "retrieval_model"])
def test_each_side_of_a_router_is_its_own(pocket: Path, encoder: encoders.Encoder, tmp_path: Path, kind: str) -> None:
    """Both sides are sentence-transformers' own, training moves the query side, and documents stay as they are."""
    base = tmp_path / "base"
    if kind == "asymmetric":
        asymmetric(pocket, base)
    else:  # what a sweep hands over is the base of the next one
        moved = {name: weight + 0.01 for name, weight in encoder.parameters.items() if "layer.1" in name}
        export.hand_over(encoder, ExportFolder(tmp_path / "first"), moved, "card")
        shutil.copytree(tmp_path / "first" / "retrieval_model", base)
    model = load(base)
    queries, passages = oracle(base, "query"), oracle(base, "passage")
    assert (queries - passages).abs().max() > 0.001
    assert (model.encode(TEXTS, "query") - queries).abs().max() < 1e-5
    assert (model.encode(TEXTS, "passage") - passages).abs().max() < 1e-5
    assert model.fingerprint("query") != model.fingerprint("passage")
    if kind == "retrieval_model":  # so that the embeddings that are stored already are used
        assert model.fingerprint("passage") == encoder.fingerprint("passage")

    weights = tuned(model, pocket, "embeddings")
    expected = model.encode(TEXTS, "query", weights)
    assert (expected - queries).abs().max() > 0.001
    assert torch.equal(model.encode(TEXTS, "passage"), load(base).encode(TEXTS, "passage"))
    export.hand_over(model, ExportFolder(tmp_path / "second"), weights, "card")
    both = tmp_path / "second" / "retrieval_model"
    assert (oracle(both, "query") - expected).abs().max() < 1e-5
    assert (oracle(tmp_path / "second" / "query_encoder", "query") - expected).abs().max() < 1e-5
    assert torch.equal(oracle(both, "passage"), oracle(base, "passage"))


def test_a_router_without_a_side_for_queries(pocket: Path) -> None:
    modules = list(SentenceTransformer(str(pocket / "encoder"), device="cpu"))
    router = Router({"left": modules, "right": modules}, default_route=None, allow_empty_key=False)
    with pytest.raises(errors.ModelError, match=r"routes \['left', 'right'\], and none of them is `query`"):
        encoders.Encoder(SentenceTransformer(modules=[router], device="cpu"), config.Model(name="mine"))


def dot_product_encoder(pocket: Path, folder: Path) -> Path:
    """The pocket encoder without its normalisation, and with a last layer that gives embeddings different lengths."""
    model = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    torch.manual_seed(1)
    dense = Dense(96, 96, bias=True, activation_function=torch.nn.Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(torch.eye(96) + 0.3 * torch.randn(96, 96) / 10)
    plain = SentenceTransformer(modules=[model[0], model[1], dense], device="cpu", similarity_fn_name="dot")
    plain.save(str(folder), create_model_card=False)
    return folder


def test_dot_products_are_ranked_as_they_are(pocket: Path, tmp_path: Path) -> None:
    folder = dot_product_encoder(pocket, tmp_path / "dot")
    model = load(folder)
    assert model.similarity == "dot"
    for side in ("query", "passage"):
        expected = oracle(folder, side, normalised=False)
        assert (model.encode(TEXTS, side) - expected).abs().max() < 1e-4 * expected.abs().max()
    lengths = model.encode([json.loads(line)["positive"] for line in lines(pocket)[:200]], "passage").norm(dim=1)
    assert lengths.max() > 1.05 * lengths.min()

    data = sets.as_ranking(triplets(pocket))
    queries, passages = model.encode(data.queries, "query"), model.encode(data.passages, "passage")
    found = ranking.search(data, queries, passages, 10)
    theirs = util.dot_score(queries, passages).topk(10).indices
    assert (found == theirs).float().mean() > 0.999
    assert (found != util.cos_sim(queries, passages).topk(10).indices).any()

    rows = triplets(pocket)
    leads = discordance.leads(rows, model.encode(rows.queries, "query"), passages)
    reference = SentenceTransformer(str(folder), device="cpu")
    for i in range(20):
        q, p, n = (
            torch.from_numpy(reference.encode_query([text]))
            for text in (rows.queries[rows.query[i]], rows.passages[rows.positive[i]], rows.passages[rows.negative[i]])
        )
        assert float(leads[i]) == pytest.approx(float(q @ p.T - q @ n.T), abs=1e-3)


def test_the_sweep_file_may_say_what_is_ranked_by(pocket: Path, tmp_path: Path) -> None:
    folder = dot_product_encoder(pocket, tmp_path / "dot")
    cosine = load(folder, similarity="cosine")
    assert torch.allclose(cosine.encode(TEXTS, "query").norm(dim=1), torch.ones(len(TEXTS)))
    assert cosine.fingerprint("query") != load(folder).fingerprint("query")
    export.save(cosine, tmp_path / "out")
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").similarity_fn_name == "cosine"
    settings = folder / "config_sentence_transformers.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"similarity_fn_name": "manhattan"}))
    manhattan = load(folder)
    assert manhattan.similarity == "manhattan"
    assert (manhattan.encode(TEXTS, "query") - oracle(folder, "query", normalised=False)).abs().max() < 1e-3
    export.hand_over(manhattan, ExportFolder(tmp_path / "by_distance"), {}, "card")
    for name in ("query_encoder", "retrieval_model"):
        handed = SentenceTransformer(str(tmp_path / "by_distance" / name), device="cpu")
        assert handed.similarity_fn_name == "manhattan"


def lines(pocket: Path) -> list[str]:
    return (pocket / "questions" / "train.jsonl").read_text(encoding="utf-8").splitlines()


def triplets(pocket: Path) -> sets.Triplets:
    data = sources.load("t", config.Source(path=str(pocket / "questions" / "train.jsonl"), limit=100), seed=0)
    assert isinstance(data, sets.Triplets)
    return data


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_a_trial_by_any_similarity_makes_its_loss_smaller(pocket: Path, tmp_path: Path, similarity: str) -> None:
    model = load(dot_product_encoder(pocket, tmp_path / "base"), similarity=similarity)
    data = triplets(pocket)
    prepared = trial.TrainingData.prepare(data, model.encode(data.passages, "passage"), model)
    settings = config.Train(
        data=config.Source(path="none"), learning_rate=1e-3, batch_size=20, margin=1.0, steps=30, evaluations=3
    )
    losses = [one.metrics["loss"] for one in trial.run(model, prepared, settings, Benchmark([]).measure, seed=0)]
    assert losses[-1] < 0.9 * losses[0]
