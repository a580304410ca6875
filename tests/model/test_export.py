"""An exported encoder is the trial's own, in a folder that sentence-transformers loads by itself."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import torch
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config
from adiabatic_ray.data import sources
from adiabatic_ray.data.sets import Ranking
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.evaluate.embedded_data import EmbeddingBuilder
from adiabatic_ray.model import encoder as encoders
from adiabatic_ray.model import export
from adiabatic_ray.model.displacement import Displacement
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.trials.layout import ExportFolder
from tests.generators import drain

TEXTS = ["who reads a book?", "кто читает книгу"]


def test_exported_encoder_truncates_as_queries_were(pocket: Path, tmp_path: Path) -> None:
    settings = config.Model(name=str(pocket / "encoder"), max_length=config.Lengths(query=6))
    short = encoders.load(settings)
    export.save(short, tmp_path / "short")
    loaded = SentenceTransformer(str(tmp_path / "short"), device="cpu")
    text = ["the teacher reads a book and the doctor writes a letter"]
    assert torch.allclose(torch.from_numpy(loaded.encode_query(text)), short.encode(text, "query"), atol=1e-5)


def shifted(encoder: Encoder, amount: float, part: str = "layer.1") -> Displacement:
    """A displacement of the parameters whose names hold `part`, the same everywhere."""
    displacement = Displacement(encoder, [name for name in encoder.parameters if part in name])
    with torch.no_grad():
        for delta in displacement.deltas:
            delta.add_(amount)
    return displacement


@pytest.mark.slow
def test_exported_encoder_embeds_as_base_plus_displacement(encoder: Encoder, tmp_path: Path) -> None:
    weights = shifted(encoder, 0.01).weights()
    expected = encoder.encode(TEXTS, "query", weights)
    base = encoder.encode(TEXTS, "query")
    export.save(encoder, tmp_path / "tuned", weights)

    program = f"""
import sys
from sentence_transformers import SentenceTransformer
import numpy as np
model = SentenceTransformer({str(tmp_path / "tuned")!r}, device="cpu")
np.save({str(tmp_path / "out.npy")!r}, model.encode_query({TEXTS!r}, show_progress_bar=False))
assert not any(name.startswith("adiabatic_ray") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    exported = torch.from_numpy(np.load(tmp_path / "out.npy"))
    assert (exported - expected).abs().max() < 1e-5
    assert (exported - base).abs().max() > 1e-3
    assert torch.equal(encoder.encode(TEXTS, "query"), base)
    assert sorted(path.name for path in (tmp_path / "tuned").glob("*.safetensors")) == ["model.safetensors"]
    assert list((tmp_path / "tuned").rglob("*.bin")) == []


LONG = ["the teacher reads a book and the doctor writes a letter to the farmer in the garden by the old house"]
PROMPTED = config.Model(
    name="",
    prompts=config.Sides(query="who: ", passage="the book: "),
    max_length=config.Lengths(query=6, passage=9),
)


def in_a_fresh_process(program: str, folder: Path) -> dict[str, np.ndarray]:
    """What a program that knows sentence-transformers alone puts into `result`."""
    program = f"""
import sys
import numpy as np
from sentence_transformers import SentenceTransformer
{program}
np.savez({str(folder / "result.npz")!r}, **result)
assert "adiabatic_ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=folder)
    return dict(np.load(folder / "result.npz"))


@pytest.mark.parametrize("kind", ["plain", *(pytest.param(one, marks=pytest.mark.slow) for one in ("settings", "own"))])
def test_hand_over_has_a_tuned_query_side_and_the_base_bit_for_bit(kind: str, pocket: Path, tmp_path: Path) -> None:
    """Without prompts, with prompts and lengths from the settings, and with prompts of the model's own, as E5 has."""
    name = str(pocket / "encoder")
    if kind == "own":
        base = SentenceTransformer(name, device="cpu")
        base.prompts = {"query": "who: ", "document": "the book: "}
        name = str(tmp_path / "base")
        base.save(name, create_model_card=False)
    settings = dataclasses.replace(PROMPTED if kind == "settings" else config.Model(name=""), name=name)
    ours = encoders.load(settings)
    weights = shifted(ours, 0.02).weights(0.5)
    export.hand_over(ours, ExportFolder(tmp_path / "out"), weights, "the card")

    texts = TEXTS + LONG
    result = in_a_fresh_process(
        f"""
base = SentenceTransformer({name!r}, device="cpu")
tuned = SentenceTransformer("out/query_encoder", device="cpu")
both = SentenceTransformer("out/retrieval_model", device="cpu")
plain_base = base.encode({TEXTS!r})
base.max_seq_length = {ours.max_length["passage"]}
result = {{
    "tuned": tuned.encode_query({texts!r}),
    "query": both.encode_query({texts!r}),
    "document": both.encode_document({texts!r}),
    "base": base.encode_document({texts!r}, prompt={ours.prompts["passage"]!r}),
    "plain": both.encode({TEXTS!r}),
    "plain_base": plain_base,
}}
sides = both[0].sub_modules
ours, theirs = sides["document"].state_dict(), base.state_dict()
assert list(ours) == list(theirs) and all((ours[key] == theirs[key]).all() for key in theirs)
assert any((value != theirs[key]).any() for key, value in sides["query"].state_dict().items())
result["lengths"] = [sides[side][0].max_seq_length for side in ("query", "document")]
""",
        tmp_path,
    )
    expected = ours.encode(texts, "query", weights).numpy()
    np.testing.assert_allclose(result["tuned"], expected, atol=1e-5)
    np.testing.assert_allclose(result["query"], expected, atol=1e-5)
    assert np.abs(expected - ours.encode(texts, "query").numpy()).max() > 1e-3
    assert result["document"].tobytes() == result["base"].tobytes()
    np.testing.assert_allclose(result["document"], ours.encode(texts, "passage").numpy(), atol=1e-5)
    assert result["plain"].tobytes() == result["plain_base"].tobytes()
    assert result["lengths"].tolist() == [ours.max_length["query"], ours.max_length["passage"]]
    if kind != "plain":
        without = SentenceTransformer(name, device="cpu").encode(texts, prompt="")
        assert np.abs(result["document"] - without).max() > 1e-3  # the prompt does something
    for side in ("query_encoder", "retrieval_model"):
        assert (tmp_path / "out" / side / "README.md").read_text() == "the card"
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} <= {".json", ".md", ".safetensors"}


def test_pooling_that_was_set_is_handed_over(pocket: Path, tmp_path: Path) -> None:
    ours = encoders.load(config.Model(name=str(pocket / "encoder"), pooling="cls"))
    export.hand_over(ours, ExportFolder(tmp_path), {}, "")
    both = SentenceTransformer(str(tmp_path / "retrieval_model"), device="cpu")
    np.testing.assert_allclose(both.encode_query(TEXTS), ours.encode(TEXTS, "query").numpy(), atol=1e-5)
    np.testing.assert_allclose(both.encode_document(TEXTS), ours.encode(TEXTS, "passage").numpy(), atol=1e-5)
    mean = encoders.load(config.Model(name=str(pocket / "encoder")))
    assert (mean.encode(TEXTS, "query") - ours.encode(TEXTS, "query")).abs().max() > 1e-2


def test_a_default_prompt_of_the_base_does_not_break_loading(pocket: Path, tmp_path: Path) -> None:
    base = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    base.prompts, base.default_prompt_name = {"topic": "the book: "}, "topic"
    base.save(str(tmp_path / "base"), create_model_card=False)
    export.hand_over(encoders.load(config.Model(name=str(tmp_path / "base"))), ExportFolder(tmp_path), {}, "")
    for name in ("query_encoder", "retrieval_model"):
        loaded = SentenceTransformer(str(tmp_path / name), device="cpu")
        np.testing.assert_array_equal(loaded.encode(TEXTS), base.encode(TEXTS))


def of_its_first_passages(data: Ranking, count: int) -> Ranking:
    """A smaller set: fewer passages, and the queries that they answer."""
    judged = [{row: grade for row, grade in grades.items() if row < count} for grades in data.judgements]
    kept = [i for i, grades in enumerate(judged) if any(grade > 0 for grade in grades.values())]
    return dataclasses.replace(
        data,
        queries=[data.queries[i] for i in kept],
        passages=data.passages[:count],
        judgements=[judged[i] for i in kept],
        identical=data.identical[kept],
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ranking_on_stored_documents_is_what_was_measured(real_data: Path, tmp_path: Path) -> None:
    """Part of TREC DL 2019, on stored passages: our nDCG@10 is trec_eval's of the exported side's own queries."""
    ours = encoders.load(config.Model(name=str(real_data / "encoder")))
    whole = sources.load("dl19", config.Source(path=str(real_data / "dl19")), 0)
    assert isinstance(whole, Ranking)
    data = of_its_first_passages(whole, 3000)
    assert len(data) > 10
    assert (data.identical < 0).all()  # no passage to leave out
    _, (evaluation_set,) = drain(EmbeddingBuilder(ours, tmp_path / "cache").evaluation_sets({"dl19": data}))
    torch.manual_seed(0)
    displacement = shifted(ours, 0.0, "output.dense.weight")
    with torch.no_grad():
        for delta in displacement.deltas:
            delta.copy_(torch.randn_like(delta) * 0.01)
    weights = displacement.weights()
    benchmark = Benchmark([evaluation_set])
    measured = benchmark.measure(lambda texts: ours.encode(texts, "query", weights)).metrics["ndcg_at_10/dl19"]
    assert measured != benchmark.untouched().metrics["ndcg_at_10/dl19"]

    export.hand_over(ours, ExportFolder(tmp_path / "out"), weights, "")
    np.save(tmp_path / "stored.npy", evaluation_set.passages.open().numpy())
    (tmp_path / "queries.json").write_text(json.dumps(list(data.queries)))
    scores = in_a_fresh_process(
        """
import json
model = SentenceTransformer("out/retrieval_model", device="cpu")
queries = model.encode_query(json.load(open("queries.json")), normalize_embeddings=True)
result = {"scores": queries @ np.load("stored.npy").T}
""",
        tmp_path,
    )["scores"]
    # Passages that are equal once truncated tie: trec_eval then prefers the larger id, we prefer the earlier row.
    names = [f"{row:06d}" for row in reversed(range(len(data.passages)))]
    judged = {str(i): {names[row]: grade for row, grade in rows.items()} for i, rows in enumerate(data.judgements)}
    run = {str(i): dict(zip(names, map(float, row), strict=True)) for i, row in enumerate(scores)}
    by_query = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(run)
    assert measured == pytest.approx(np.mean([one["ndcg_cut_10"] for one in by_query.values()]), abs=1e-6)
