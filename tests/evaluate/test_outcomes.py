"""Outcomes come back from disk bit for bit, and take a bit each there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adiabatic_ray.data.sets import Languages
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.model import checkpoint

LANGUAGES = ["de", "en", "fr"]
SCALES = (0.25, 0.1 + 0.2, 1.0)  # 0.1 + 0.2 is not 0.3


def drawn(triplets: int = 13, premises: int = 5) -> Outcomes:
    """Random outcomes whose number is not divisible by eight."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"questions": (triplets,), "xnli.v1": (premises, 2, 3, 3)}
    by_scale = {
        scale: {name: torch.rand(shape, generator=generator) < 0.3 for name, shape in shapes.items()}
        for scale in SCALES
    }
    return Outcomes(by_scale, {"xnli.v1": LANGUAGES})


def in_languages() -> Outcomes:
    """Random outcomes of triplets whose queries and passages have languages."""
    queries = {"questions": Languages(["ar", "en"], np.arange(13) % 2)}
    texts = {"questions": Languages(["sw"], np.zeros(13, dtype=np.int64))}
    return Outcomes(drawn().by_scale, {"questions": ["ar", "en"], "xnli.v1": LANGUAGES}, queries, texts, "euclidean")


def test_outcomes_are_read_back(tmp_path: Path) -> None:
    path, saved = tmp_path / "trials" / "0001" / "outcomes.safetensors", in_languages()
    outcomes.save(path, saved)
    loaded = outcomes.load(path)
    assert loaded is not None
    assert loaded.languages == saved.languages
    assert loaded.similarity == "euclidean"
    for kept, read in ((saved.language, loaded.language), (saved.text_language, loaded.text_language)):
        assert {key: one.each() for key, one in read.items()} == {key: one.each() for key, one in kept.items()}
    assert tuple(loaded.by_scale) == SCALES  # each is looked up by its value
    for scale in SCALES:
        assert loaded.by_scale[scale].keys() == saved.by_scale[scale].keys()
        for name, outcome in saved.by_scale[scale].items():
            assert loaded.by_scale[scale][name].dtype == torch.bool
            assert torch.equal(loaded.by_scale[scale][name], outcome)


def test_an_outcome_is_a_bit(tmp_path: Path) -> None:
    outcomes.save(tmp_path / "small.safetensors", drawn(triplets=8))
    outcomes.save(tmp_path / "large.safetensors", drawn(triplets=8 + 80_000))
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("small", "large")]
    assert sizes[1] - sizes[0] == pytest.approx(len(SCALES) * 80_000 / 8, abs=200)


def test_outcomes_of_earlier_versions_have_no_languages_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.safetensors"
    outcomes.save(path, in_languages())
    written = checkpoint.load(path)
    assert written is not None
    values = {key: value for key, value in written.values.items() if not key.startswith("text_")}
    checkpoint.save(path, checkpoint.Checkpoint(written.tensors, values))
    loaded = outcomes.load(path)
    assert loaded is not None
    assert loaded.text_language == {}
    assert loaded.language["questions"].each()[:3] == ["ar", "en", "ar"]


def test_absent_and_damaged_are_none(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.safetensors"
    assert outcomes.load(path) is None
    outcomes.save(path, drawn())
    path.write_bytes(path.read_bytes()[:-1])
    assert outcomes.load(path) is None
