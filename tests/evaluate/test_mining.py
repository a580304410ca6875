"""Mined negatives are those that sentence-transformers mines from the same data with the same settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from adiabatic_ray import config, errors
from adiabatic_ray.data import cache, sets, sources
from adiabatic_ray.evaluate import mining
from adiabatic_ray.model.encoder import Encoder
from tests.generators import drain


@pytest.fixture(scope="module")
def pairs(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> sets.Triplets:
    """Questions with their answers; some questions come twice, with two answers."""
    rows = [json.loads(line) for line in (pocket / "questions" / "train.jsonl").read_text().splitlines()[:150]]
    rows += [{**one, "positive": other["positive"]} for one, other in zip(rows[:20], rows[50:70], strict=True)]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({"query": r["query"], "positive": r["positive"]}) for r in rows))
    data = sources.load("train", config.Source(path=str(path)), seed=0)
    assert isinstance(data, sets.Triplets)
    assert len(data.queries) < len(data)
    return data


def triplets(data: sets.Triplets) -> set[tuple[str, str, str]]:
    rows = zip(data.query, data.positive, data.negative, strict=True)
    return {(data.queries[q], data.passages[p], data.passages[n]) for q, p, n in rows}


def mine(
    data: sets.Triplets, encoder: Encoder, settings: config.Negatives, seed: int = 0, similarity: Any = "cosine"
) -> sets.Triplets:
    queries, passages = encoder.encode(data.queries, "query"), encoder.encode(data.passages, "passage")
    found = mining.mine(data, queries, passages, settings, seed, similarity)
    rows = found["row"].numpy()
    return dataclasses.replace(
        data, query=data.query[rows], positive=data.positive[rows], negative=found["negative"].numpy()
    )


SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_negatives": 4},
    {"num_negatives": 3, "range_min": 5, "range_max": 20},
    {"num_negatives": 2, "absolute_margin": 0.05},
    {"num_negatives": 2, "relative_margin": 0.1, "range_max": 60},
    {"num_negatives": 5, "max_score": 0.7, "min_score": 0.4},
]


BY_DISTANCE = {
    "euclidean": {"num_negatives": 2, "absolute_margin": 0.02, "range_max": 40},
    "manhattan": {"num_negatives": 2, "absolute_margin": 0.2, "range_max": 40},
}
CASES = [*(("cosine", settings) for settings in SETTINGS), *BY_DISTANCE.items()]


@pytest.mark.parametrize(
    ("similarity", "settings"), CASES, ids=[f"{name} {', '.join(settings) or 'defaults'}" for name, settings in CASES]
)
def test_negatives_are_those_of_sentence_transformers(
    pairs: sets.Triplets, encoder: Encoder, pocket: Path, similarity: str, settings: dict[str, Any]
) -> None:
    """Of embeddings of unit length, which are what theirs mines with, whatever the similarity is."""
    rows = {
        "anchor": [pairs.queries[i] for i in pairs.query],
        "positive": [pairs.passages[i] for i in pairs.positive],
    }
    model = SentenceTransformer(str(pocket / "encoder"), device="cpu", similarity_fn_name=similarity)
    expected = mine_hard_negatives(
        datasets.Dataset.from_dict(rows), model, verbose=False, **({"num_negatives": 1} | settings)
    )
    ours = triplets(mine(pairs, encoder, config.Negatives(**settings), similarity=similarity))
    theirs = set(zip(expected["anchor"], expected["positive"], expected["negative"], strict=True))
    assert len(theirs) > 50
    assert len(ours ^ theirs) <= 2  # equal scores may be ordered otherwise


def test_random_negatives_lie_in_the_range_and_depend_on_the_seed(pairs: sets.Triplets, encoder: Encoder) -> None:
    settings = config.Negatives(num_negatives=2, range_min=5, range_max=20, sampling_strategy="random")
    in_range = triplets(mine(pairs, encoder, config.Negatives(num_negatives=15, range_min=5, range_max=20)))
    drawn = [triplets(mine(pairs, encoder, settings, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(one <= in_range for one in drawn)
    assert len(drawn[0]) == 2 * len({(q, p) for q, p, _ in drawn[0]})


def test_mined_negatives_are_cached(pairs: sets.Triplets, encoder: Encoder, tmp_path: Path) -> None:
    texts = (pairs.queries, "query"), (pairs.passages, "passage")
    tables = [
        drain(cache.fill(tmp_path, side, own, [encoder.encode(own, side)], encoder.dimension))[1] for own, side in texts
    ]
    first = mining.mined(tmp_path, pairs, *tables, config.Negatives(num_negatives=2), 0, "cosine")
    (path,) = (tmp_path / "mined").iterdir()
    written = path.stat().st_mtime_ns
    again = mining.mined(tmp_path, pairs, *tables, config.Negatives(num_negatives=2), 0, "cosine")
    assert path.stat().st_mtime_ns == written
    assert np.array_equal(first.negative, again.negative)
    assert not first.pairs
    assert np.array_equal(np.diff(first.first, append=len(first)), np.full(len(pairs), 2))
    with pytest.raises(errors.DataError, match=r"mining found no negative for any of 170 rows. Raise `range_max`"):
        mining.mined(tmp_path, pairs, *tables, config.Negatives(max_score=-1.0), 0, "cosine")
