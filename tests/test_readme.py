"""What the README says runs: its Python example, and the tests and sweep files that it names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from qdrant_client import QdrantClient, models

from adiabatic_ray import config
from adiabatic_ray.data import sources
from adiabatic_ray.evaluate.embedded_data import EmbeddingBuilder
from adiabatic_ray.model.encoder import Encoder
from tests.generators import drain

ROOT = Path(__file__).parents[1]


def example(mark: str) -> str:
    """The block of Python below a mark."""
    block = re.search(rf"<!-- {mark} example -->\n+```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None, f"README.md has no Python block below `<!-- {mark} example -->`"
    return block[1]


def test_the_files_that_it_names_exist() -> None:
    named = set(re.findall(r"\b(?:tests|sweeps|k8s|adiabatic_ray)/[\w./-]*\w", (ROOT / "README.md").read_text()))
    written = {"sweeps/my.yaml"}  # an example
    assert len(named) > 15
    assert [name for name in sorted(named - written) if not (ROOT / name).exists()] == []


def test_the_benchmarks_that_it_names_exist() -> None:
    named = set(re.findall(r"-m tests\.benchmarks\.(\w+)", (ROOT / "README.md").read_text()))
    assert len(named) >= 6
    assert [name for name in named if not (ROOT / "tests" / "benchmarks" / f"{name}.py").exists()] == []


@pytest.mark.slow
@pytest.mark.usefixtures("pocket")
def test_the_python_example_runs(tmp_path: Path) -> None:
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", example("python")],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ \d+\.\d+$", done.stdout, re.MULTILINE), "no best trial was printed"
    assert re.search(r"^\s*trial +standing +gain", done.stdout, re.MULTILINE)
    assert re.search(r"query_encoder +questions +pnd", done.stdout), done.stdout
    assert (tmp_path / "runs" / "quickstart" / "report.html").exists()


def test_a_collection_of_qdrant_is_exported_for_a_sweep(tmp_path: Path, pocket: Path, encoder: Encoder) -> None:
    """Qdrant's local mode numbers its points; the passages' own ids are in the payload. The order is another."""
    folder = pocket / "archive" / "en"
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    vectors = encoder.encode([one["text"] for one in corpus], "passage")
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    client.create_collection("docs", models.VectorParams(size=encoder.dimension, distance=models.Distance.COSINE))
    points = zip(reversed(corpus), vectors.flip(0).tolist(), strict=True)
    client.upsert("docs", [models.PointStruct(id=i, vector=v, payload=one) for i, (one, v) in enumerate(points)])
    client.close()
    subprocess.run([sys.executable, "-c", example("qdrant")], cwd=tmp_path, check=True)
    stored = config.Embeddings(path=str(tmp_path / "vectors.npy"), ids=str(tmp_path / "ids.txt"))
    data = {"docs": sources.load("docs", config.Source(path=str(folder), split="selection", embeddings=stored), seed=0)}
    _, (docs,) = drain(EmbeddingBuilder(encoder, tmp_path / "cache").evaluation_sets(data))
    assert torch.allclose(docs.passages.open(), vectors, atol=1e-6)
