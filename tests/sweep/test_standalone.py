"""The commands without Ray: filling the cache, training once, measuring encoders."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config, errors
from adiabatic_ray.evaluate.embedded_data import Data, EmbeddingBuilder
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep import standalone
from adiabatic_ray.sweep.console import Console
from tests.generators import drain

Load = Callable[..., config.Sweep]


@pytest.fixture
def beir(pocket: Path, tmp_path: Path) -> Path:
    """Thirty questions and their hundred passages as a BEIR folder: passage `p7` answers question `q7`."""
    rows = [json.loads(line) for line in (pocket / "questions" / "selection.jsonl").read_text().splitlines()[:50]]
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = [text for row in rows for text in (row["positive"], row["negative"])]
    corpus = [{"_id": f"p{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{2 * i}", "text": row["query"]} for i, row in enumerate(rows[:30])]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    judged = [f"q{2 * i}\tp{2 * i}\t1" for i in range(30)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    return folder


def ndcg_at_10(queries: SentenceTransformer, passages: SentenceTransformer, folder: Path) -> float:
    """Of one relevant passage a query, written plainly."""
    texts, questions = (
        [json.loads(line)["text"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("corpus", "queries")
    )
    scores = queries.encode_query(questions).astype(np.float64) @ passages.encode_document(texts).astype(np.float64).T
    ranks = [int((row > row[2 * i]).sum()) for i, row in enumerate(scores)]
    return sum(1 / math.log2(rank + 2) for rank in ranks if rank < 10) / len(ranks)


def train(sweep: config.Sweep, out: Path) -> SentenceTransformer:
    standalone.train(sweep, out, Console(quiet=True))
    return SentenceTransformer(str(out), device="cpu")


def test_the_cache_that_is_filled_is_the_one_that_a_sweep_reads(
    load_sweep: Load, data: Data, encoder: Encoder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sweep = load_sweep()
    standalone.embed(sweep, Console())
    assert f"{tmp_path / 'runs' / 'cache'}" in capsys.readouterr().out.splitlines()[-1]
    assert standalone.cache_folder(sweep) == tmp_path / "runs" / "cache"
    progress, _ = drain(EmbeddingBuilder(encoder, tmp_path / "runs" / "cache").embedded_data(data))
    assert progress == []  # nothing was left to embed
    standalone.embed(sweep, Console())
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_one_training_writes_the_query_encoder(load_sweep: Load, pocket: Path, tmp_path: Path) -> None:
    tuned = train(load_sweep({"train.learning_rate": 1e-3}), tmp_path / "tuned")
    base = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    moved = np.abs(tuned.encode_query(["who reads a book?"]) - base.encode_query(["who reads a book?"])).max()
    assert 0 < moved < 1


def test_a_training_that_diverges_writes_nothing(
    load_sweep: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(errors.SweepError, match=r"training ended as diverged: the loss is nan at step \d+"):
        standalone.train(load_sweep({"train.learning_rate": 1e30}), tmp_path / "tuned", Console())
    assert not (tmp_path / "tuned").exists()
    assert "the loss is nan" in capsys.readouterr().out


def test_ranking_is_measured_on_the_documents_of_the_base(
    load_sweep: Load, beir: Path, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = train(load_sweep({"train.learning_rate": 1e-3, "train.steps": 30}), tmp_path / "tuned")
    base = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    models = [config.Model(name=str(tmp_path / "tuned"))]
    against, out = config.Model(name=str(pocket / "encoder")), tmp_path / "out"
    standalone.evaluate(models, against, {"beir": config.Source(path=str(beir))}, out, Console())
    table = pd.read_csv(out / "ranking.csv").set_index("measure")["value"]
    before, after = ndcg_at_10(base, base, beir), ndcg_at_10(tuned, base, beir)
    assert before != after
    assert table["ndcg_at_10"] == pytest.approx(after)
    assert table["ndcg_at_10_change"] == pytest.approx(after - before)
    printed = capsys.readouterr().out
    (row,) = (line.split() for line in printed.splitlines() if line.startswith("beir") and "ndcg_at_10" in line)
    assert row[:4] == ["beir", "ndcg_at_10", f"{after:.4f}", f"{before:.4f}"]
    assert f"wrote {out / 'discordance.csv'}" in printed

    alone = tmp_path / "alone"
    standalone.evaluate(models, None, {"beir": config.Source(path=str(beir))}, alone, Console(quiet=True))
    table = pd.read_csv(alone / "ranking.csv").set_index("measure")["value"]
    assert table["ndcg_at_10"] == pytest.approx(ndcg_at_10(tuned, tuned, beir))


def test_encoders_of_one_name_have_a_folder_each(
    load_sweep: Load, pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = load_sweep()
    copy = shutil.copytree(pocket / "encoder", tmp_path / "another" / "encoder")
    models = [config.Model(name=str(pocket / "encoder")), config.Model(name=str(copy))]
    data = {"questions": sweep.evaluate.selection["questions"]}
    standalone.evaluate(models, None, data, tmp_path / "out", Console(), sweep)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"encoder_1", "encoder_2"}
    ours, theirs = (tmp_path / "out" / name / "discordance.csv" for name in ("encoder_1", "encoder_2"))
    assert ours.read_text() == theirs.read_text()
    assert standalone.cache_folder(sweep).exists()  # the sweep file's, not one in `out`
    assert not (tmp_path / "out" / "cache").exists()
    assert "embedded" in capsys.readouterr().out
