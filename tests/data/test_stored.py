"""Stored embeddings are read from the files that people have, and brought together with the passages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import faiss
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers.util import quantize_embeddings

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets, sources, stored

Matrix = npt.NDArray[np.float32]
DIMENSION = 16


@pytest.fixture
def vectors() -> Matrix:
    drawn = np.random.default_rng(0).standard_normal((30, DIMENSION)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def npy(path: Path, vectors: Matrix) -> Path:
    np.save(path / "v.npy", vectors)
    return path / "v.npy"


def safetensors(path: Path, vectors: Matrix) -> Path:
    save_file({"embeddings": torch.from_numpy(vectors), "step": torch.zeros(1)}, path / "v.safetensors")
    return path / "v.safetensors"


def parquet(path: Path, vectors: Matrix) -> Path:
    datasets.Dataset.from_dict({"vector": list(vectors)}).to_parquet(path / "v.parquet")
    return path / "v.parquet"


def jsonl(path: Path, vectors: Matrix) -> Path:
    (path / "v.jsonl").write_text("\n".join(json.dumps({"vector": row.tolist()}) for row in vectors))
    return path / "v.jsonl"


def faiss_index(path: Path, vectors: Matrix) -> Path:
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(vectors)
    faiss.write_index(index, str(path / "v.faiss"))
    return path / "v.faiss"


@pytest.mark.parametrize("write", [npy, safetensors, parquet, jsonl, faiss_index])
def test_every_kind_of_file_gives_its_rows(
    write: Callable[[Path, Matrix], Path], vectors: Matrix, tmp_path: Path
) -> None:
    store = stored.open_store("docs", config.Embeddings(path=str(write(tmp_path, vectors))), DIMENSION)
    assert (store.count, store.precision) == (30, "float32")
    assert np.allclose(store.read(np.array([7, 0, 29])), vectors[[7, 0, 29]], atol=1e-7)


def test_half_precision(vectors: Matrix, tmp_path: Path) -> None:
    source = config.Embeddings(path=str(npy(tmp_path, vectors.astype(np.float16))))  # type: ignore[arg-type]
    store = stored.open_store("docs", source, DIMENSION)
    assert store.precision == "float16"
    assert np.allclose(store.read(np.arange(30)), vectors, atol=1e-3)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_bytes_with_the_ranges_that_quantize_embeddings_got(precision: str, vectors: Matrix, tmp_path: Path) -> None:
    ranges = np.stack([vectors.min(0), vectors.max(0)])
    path = npy(tmp_path, quantize_embeddings(vectors, precision=precision, ranges=ranges))  # type: ignore[arg-type]
    with pytest.raises(errors.DataError, match=r"Give `embeddings.ranges`, a `.npy` of the shape \[2, 16\]"):
        stored.open_store("docs", config.Embeddings(path=str(path)), DIMENSION)
    np.save(tmp_path / "ranges.npy", ranges)
    source = config.Embeddings(path=str(path), ranges=str(tmp_path / "ranges.npy"))
    store = stored.open_store("docs", source, DIMENSION)
    assert store.precision == "int8"
    step = (ranges[1] - ranges[0]) / 255
    assert (np.abs(store.read(np.arange(30)).numpy() - vectors) <= step / 2 * 1.001).mean() > 0.98  # but the largest


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits(precision: str, vectors: Matrix, tmp_path: Path) -> None:
    path = npy(tmp_path, quantize_embeddings(vectors, precision=precision))  # type: ignore[arg-type]
    store = stored.open_store("docs", config.Embeddings(path=str(path)), DIMENSION)
    assert store.precision == "binary"
    assert np.array_equal(store.read(np.arange(30)).numpy(), np.where(vectors > 0, 1, -1))


PASSAGES = ["a tree", "a house", "a ship"]


def place(source: config.Embeddings, **known: object) -> list[int]:
    return stored.find("docs", source, PASSAGES, **known).rows.tolist()  # type: ignore[arg-type]


def test_rows_are_found_by_id_by_text_and_by_order(vectors: Matrix, tmp_path: Path) -> None:
    path = npy(tmp_path, vectors)
    (tmp_path / "ids.txt").write_text("".join(f"d{i}\n" for i in range(30)))
    np.save(tmp_path / "ids.npy", np.arange(30))
    (tmp_path / "ids.json").write_text(json.dumps(list(range(30))))
    named = config.Embeddings(path=str(path), ids=str(tmp_path / "ids.txt"))
    assert place(named, ids=["d3", "d29", "d7"]) == [3, 29, 7]
    assert place(named, ids=["d3", "d30", "d7"]) == [3, -1, 7]
    for numbered in ("ids.npy", "ids.json"):
        source = config.Embeddings(path=str(path), ids=str(tmp_path / numbered))
        assert place(source, ids=["4", "2", "0"]) == [4, 2, 0]
    assert place(config.Embeddings(path=str(path)), ids=["x", "y", "z"], order=[0, 5, 29], total=30) == [0, 5, 29]
    columns = {"_id": [5, 6, 7], "text": ["a ship", "a tree", "a cow"], "vector": list(vectors[:3])}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "t.parquet")
    table = config.Embeddings(path=str(tmp_path / "t.parquet"))
    assert place(table) == [1, -1, 0]
    assert place(table, ids=["7", "5", "1"]) == [2, 0, -1]
    index = faiss.IndexIDMap(faiss.IndexFlatIP(DIMENSION))
    index.add_with_ids(vectors, np.arange(100, 130))
    faiss.write_index(index, str(tmp_path / "ids.index"))
    assert place(config.Embeddings(path=str(tmp_path / "ids.index")), ids=["129", "7", "100"]) == [29, -1, 0]


def test_what_cannot_be_used_is_told(vectors: Matrix, tmp_path: Path) -> None:
    path = npy(tmp_path, vectors)
    (tmp_path / "ids.txt").write_text("a\nb\n")
    (tmp_path / "v.bin").write_bytes(b"0")
    (tmp_path / "broken.npy").write_bytes(b"0")
    np.save(tmp_path / "numbers.npy", vectors.astype(np.int64))
    np.save(tmp_path / "flat.npy", vectors.ravel())
    for name, message in {
        "missing.npy": "missing.npy, which is not a file",
        "v.bin": "v.bin has an unknown type; expected embeddings in a file ending in .npy, .safetensors, .parquet",
        "broken.npy": "cannot read the embeddings in .*broken.npy",
        "numbers.npy": "holds torch.int64; expected floating-point numbers, int8 or bits",
        "flat.npy": r"has the shape \[480\]; expected `\[passages, dimension\]`",
    }.items():
        with pytest.raises(errors.DataError, match=f"docs: .*{message}"):
            stored.open_store("docs", config.Embeddings(path=str(tmp_path / name)), DIMENSION)
    source = config.Embeddings(path=str(path))
    with pytest.raises(errors.DataError, match="have 16 dimensions, and those of the model have 8"):
        stored.open_store("docs", source, 8)
    with pytest.raises(errors.DataError, match=r"has 30 rows, and the corpus has 31. Give `embeddings.ids`"):
        place(source, ids=["a", "b", "c"], order=[0, 1, 30], total=31)
    with pytest.raises(errors.DataError, match=r"this set has no corpus with ids. Store the embeddings in a parquet"):
        place(source)
    with pytest.raises(errors.DataError, match=r"ids.txt has 2 ids for the 30 rows"):
        place(config.Embeddings(path=str(path), ids=str(tmp_path / "ids.txt")), ids=["a", "b", "c"])
    (tmp_path / "ids.txt").write_text("".join(f"d{i}\n" for i in range(30)))
    with pytest.raises(errors.DataError, match=r"none of the 30 ids of .*ids.txt is that of a passage: they are 'd0'"):
        place(config.Embeddings(path=str(path), ids=str(tmp_path / "ids.txt")), ids=["1", "2", "3"])
    (tmp_path / "ids.txt").write_text("d0\n" * 30)
    with pytest.raises(errors.DataError, match="names an id twice"):
        place(config.Embeddings(path=str(path), ids=str(tmp_path / "ids.txt")), ids=["d0", "d1", "d2"])


def test_a_corpus_that_loses_rows_keeps_the_places_of_the_others(vectors: Matrix, tmp_path: Path) -> None:
    """An empty passage and a repeated one are dropped, and have a row in the store."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = ["first", "", "second", "first", "third"]
    ids = ["a", "b", "c", "a", "d"]
    corpus = [{"_id": i, "title": "", "text": text} for i, text in zip(ids, texts, strict=True)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "which?"}))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tc\t1\n")
    np.save(tmp_path / "v.npy", vectors[:5])
    read = sources.load("docs", config.Source(path=str(folder), embeddings=str(tmp_path / "v.npy")), seed=0)
    assert isinstance(read, sets.Ranking)
    assert read.passages == ["first", "second", "third"]
    assert [one.rows.tolist() for one in read.stored] == [[0, 2, 4]]


def test_xnli_and_one_file_for_folders_of_languages_are_refused(pocket: Path, vectors: Matrix, tmp_path: Path) -> None:
    path = str(npy(tmp_path, vectors))
    with pytest.raises(errors.DataError, match=r"`embeddings` are those of a corpus, and .* is an XNLI set"):
        sources.load("xnli", config.Source(path=str(pocket / "xnli" / "selection.jsonl"), embeddings=path), seed=0)
    with pytest.raises(errors.DataError, match="has a corpus for each language"):
        sources.load("archive", config.Source(path=str(pocket / "archive"), split="selection", embeddings=path), seed=0)
