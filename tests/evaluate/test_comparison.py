"""`adiabatic_ray.evaluate`: encoders measured as the command line measures them, and as a loop over the data does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sentence_transformers import SentenceTransformer

import adiabatic_ray
from adiabatic_ray import cli, config, errors
from adiabatic_ray.model import encoder as encoders
from adiabatic_ray.model import export
from adiabatic_ray.model.encoder import Encoder


@pytest.fixture(autouse=True)
def storage(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for all tests here."""
    monkeypatch.setenv("ADIABATIC_STORAGE", str(tmp_path_factory.getbasetemp() / "comparison"))


@pytest.fixture(scope="module")
def tuned(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that was moved far enough to change outcomes both ways."""
    rng = np.random.default_rng(0)
    moved = {
        name: weight + 0.05 * weight.new_tensor(rng.standard_normal(weight.shape))
        for name, weight in encoder.parameters.items()
        if "output.dense.weight" in name
    }
    folder = tmp_path_factory.mktemp("tuned") / "tuned"
    export.save(encoder, folder, moved)
    return folder


@pytest.fixture(scope="module")
def questions(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 triplets."""
    lines = (pocket / "questions" / "selection.jsonl").read_text().splitlines()[:300]
    path = tmp_path_factory.mktemp("data") / "questions.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def corpus(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same questions, to be answered from all of their passages, as a BEIR folder."""
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    passages = list(dict.fromkeys(row[key] for row in rows for key in ("positive", "negative")))
    ids = {text: f"d{i}" for i, text in enumerate(passages)}
    content = {
        "corpus": [{"_id": id, "text": text} for text, id in ids.items()],
        "queries": [{"_id": f"q{i}", "text": row["query"]} for i, row in enumerate(rows)],
        "qrels": [{"query-id": f"q{i}", "corpus-id": ids[row["positive"]], "score": 1} for i, row in enumerate(rows)],
    }
    folder = tmp_path_factory.mktemp("beir") / "beir"
    folder.mkdir()
    for name, lines in content.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def discordant(questions: Path, query_model: Path, document_model: Path) -> np.ndarray:
    """The oracle: whether each triplet is discordant, from sentence-transformers' own embeddings in float64."""
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    queries, documents = (SentenceTransformer(str(folder), device="cpu") for folder in (query_model, document_model))
    query = queries.encode_query([row["query"] for row in rows], normalize_embeddings=True).astype(np.float64)
    positive, negative = (
        documents.encode_document([row[key] for row in rows], normalize_embeddings=True).astype(np.float64)
        for key in ("positive", "negative")
    )
    return (query * negative).sum(1) >= (query * positive).sum(1)


def test_one_model_on_one_file(tuned: Path, questions: Path) -> None:
    table = adiabatic_ray.evaluate(tuned, questions)
    assert list(table.columns) == ["model", "dataset", "measure", "value"]
    ((model, dataset, measure, value),) = table.itertuples(index=False)
    assert (model, dataset, measure) == (str(tuned), "questions", "pnd")
    assert value == pytest.approx(100 * discordant(questions, tuned, tuned).mean())


@pytest.mark.slow
def test_against_a_base_the_documents_are_the_bases(tuned: Path, questions: Path, pocket: Path) -> None:
    table = adiabatic_ray.evaluate(tuned, questions, against=pocket / "encoder")
    assert list(table.columns) == ["model", "dataset", "measure", "value", "base", "improvement", "p_value"]
    before = discordant(questions, pocket / "encoder", pocket / "encoder")
    after = discordant(questions, tuned, pocket / "encoder")
    fixed, broken = int((before & ~after).sum()), int((after & ~before).sum())
    assert fixed > 0
    assert broken > 0
    (row,) = table.to_dict("records")
    assert row["value"] == pytest.approx(100 * after.mean())
    assert row["base"] == pytest.approx(100 * before.mean())
    assert row["improvement"] == pytest.approx(100 * (fixed - broken) / before.sum())
    assert row["p_value"] == pytest.approx(scipy.stats.binomtest(fixed, fixed + broken).pvalue)


def test_a_model_against_itself_gains_nothing(questions: Path, pocket: Path) -> None:
    (row,) = adiabatic_ray.evaluate(pocket / "encoder", questions, against=pocket / "encoder").to_dict("records")
    assert row["value"] == row["base"]
    assert (row["improvement"], row["p_value"]) == (0.0, 1.0)


@pytest.mark.parametrize("compared", [False, True], ids=["alone", "against"])
def test_the_numbers_are_the_command_lines(
    compared: bool, tuned: Path, questions: Path, corpus: Path, pocket: Path, tmp_path: Path
) -> None:
    base = pocket / "encoder" if compared else None
    table = adiabatic_ray.evaluate(tuned, {"questions": questions, "beir": corpus}, against=base)
    told = table.set_index(["dataset", "measure"])
    options = ["--against", str(base)] if compared else []
    for data in (questions, corpus):
        out = ["--out", str(tmp_path / data.stem)]
        assert cli.main(["evaluate", "--model", str(tuned), "--data", str(data), *out, *options]) == 0
    triplets = pd.read_csv(tmp_path / "questions" / "discordance.csv").iloc[0]
    assert told.loc[("questions", "pnd"), "value"] == triplets["pnd"]
    ranking = pd.read_csv(tmp_path / "beir" / "ranking.csv").set_index("measure")["value"]
    measures = ["ndcg_at_10", "mrr_at_10", "recall_at_10", "recall_at_100", "recall_at_1000"]
    assert told.loc["beir"].index.to_list() == measures
    for measure in measures:
        assert told.loc[("beir", measure), "value"] == ranking[measure]
    if compared:
        assert told.loc[("questions", "pnd"), "improvement"] == triplets["improvement"]
        assert told.loc[("questions", "pnd"), "p_value"] == triplets["p_value"]
        change = told.loc[("beir", "ndcg_at_10"), "value"] - told.loc[("beir", "ndcg_at_10"), "base"]
        assert change == pytest.approx(ranking["ndcg_at_10_change"])
        relative = 100 * (told.loc["beir"]["value"] / told.loc["beir"]["base"] - 1)
        assert told.loc["beir"]["improvement"].to_list() == pytest.approx(relative.to_list(), abs=1e-3)
        assert told.loc["beir"]["p_value"].between(0, 1).all()


@pytest.mark.slow
def test_several_models_have_the_rows_that_each_has_alone(tuned: Path, questions: Path, pocket: Path) -> None:
    base = str(pocket / "encoder")
    models = [tuned, base, config.Model(name=base, pooling="cls")]
    data = config.Source(path=str(questions), limit=100)
    for against in (None, base):
        together = adiabatic_ray.evaluate(models, {"q": data}, against=against)
        alone = [adiabatic_ray.evaluate(model, {"q": data}, against=against) for model in models]
        pd.testing.assert_frame_equal(together, pd.concat(alone, ignore_index=True))
        assert together["model"].to_list() == [str(tuned), base, base]
        assert together["value"].nunique() == 3  # the pooling of the settings counts


def test_xnli_is_one_row(pocket: Path, encoder: Encoder) -> None:
    data = config.Source(path=str(pocket / "xnli" / "selection.jsonl"), limit=20)
    (row,) = adiabatic_ray.evaluate(encoder.settings, {"xnli": data}, against=encoder.settings).to_dict("records")
    assert (row["dataset"], row["measure"], row["improvement"]) == ("xnli", "pnd", 0.0)
    assert 0 < row["value"] == row["base"] < 50
    assert row["p_value"] is None or np.isnan(row["p_value"])  # its outcomes are not independent


def test_what_cannot_be_measured_is_told(questions: Path, pocket: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.ModelError, match=r"none is not a folder"):
        adiabatic_ray.evaluate(tmp_path / "none", questions)
    with pytest.raises(errors.DataError, match=r"none.jsonl does not exist"):
        adiabatic_ray.evaluate(pocket / "encoder", tmp_path / "none.jsonl")
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    tokenizer = pocket / "encoder" / "tokenizer.json"
    encoders.initialise(tmp_path / "narrow", tokenizer, seed=0, hidden_size=32, **shape)
    with pytest.raises(errors.ModelError, match=r"narrow embeds into 32 dimensions and .*encoder into 96"):
        adiabatic_ray.evaluate(tmp_path / "narrow", questions, against=pocket / "encoder")


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    [
        "import adiabatic_ray",
        "import adiabatic_ray.evaluate.benchmark",
        "from adiabatic_ray import evaluate; import adiabatic_ray",
    ],
)
def test_the_function_is_there_whatever_was_imported_before(
    before: str, questions: Path, pocket: Path, tmp_path: Path
) -> None:
    """The API has a function of the name of a package."""
    program = f"""
{before}
import sys
first = adiabatic_ray.evaluate({str(pocket / "encoder")!r}, {str(questions)!r})
from adiabatic_ray.evaluate import significance
import adiabatic_ray.evaluate.benchmark
assert adiabatic_ray.evaluate.benchmark.Benchmark.__name__ == "Benchmark"
again = adiabatic_ray.evaluate({str(pocket / "encoder")!r}, {str(questions)!r})
assert first.equals(again)
assert not {{"ray", "mlflow", "optuna"}} & set(sys.modules)
print(first.loc[0, "value"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own = adiabatic_ray.evaluate(pocket / "encoder", questions).loc[0, "value"]
    assert float(done.stdout) == own
