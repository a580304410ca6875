"""What a confirmation set can prove, from a sample of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adiabatic_ray import config
from adiabatic_ray.data import sources
from adiabatic_ray.data.sets import Triplets, Xnli
from adiabatic_ray.evaluate import power
from adiabatic_ray.model.encoder import Encoder

SETTINGS = config.Constraint(data="xnli")


def load(path: Path, limit: int | None = None) -> Triplets | Xnli:
    loaded = sources.load("xnli", config.Source(path=str(path), limit=limit), 0)
    assert isinstance(loaded, Triplets | Xnli)
    return loaded


def test_more_premises_prove_smaller_margins(pocket: Path, encoder: Encoder) -> None:
    path = pocket / "xnli" / "confirmation.jsonl"
    few, many = (power.smallest_margins(load(path, limit), encoder, SETTINGS.alpha) for limit in (60, 240))
    assert few.language is not None
    assert many.language is not None
    assert 0 < many.overall < 0.7 * few.overall
    assert many.overall < many.language < few.language


def test_triplets_have_no_languages(pocket: Path, encoder: Encoder) -> None:
    margins = power.smallest_margins(load(pocket / "titles" / "confirmation.jsonl"), encoder, SETTINGS.alpha)
    assert margins.language is None
    assert margins.overall > 0


def test_a_sample_stands_for_the_set(pocket: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = load(pocket / "xnli" / "confirmation.jsonl", 240)
    sampled = power.smallest_margins(guard, encoder, SETTINGS.alpha)
    monkeypatch.setattr(power, "TEXTS", 100_000)
    whole = power.smallest_margins(guard, encoder, SETTINGS.alpha)
    assert sampled.overall == pytest.approx(whole.overall, rel=0.35)
