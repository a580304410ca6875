"""What a confirmation set can prove, from a sample of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from adiabatic_ray import config
from adiabatic_ray.data import sources
from adiabatic_ray.data.sets import Languages, Ranking, Triplets, Xnli
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


def test_triplets_whose_languages_follow_each_other(pocket: Path, encoder: Encoder) -> None:
    """A sample has all of them."""
    titles = load(pocket / "titles" / "confirmation.jsonl")
    assert isinstance(titles, Triplets)
    language = np.arange(len(titles)) // (len(titles) // 3 + 1)
    spoken = dataclasses.replace(titles, language=Languages(["de", "en", "tr"], language))
    margins = power.smallest_margins(spoken, encoder, SETTINGS.alpha)
    assert margins.language is not None
    assert np.isfinite(margins.language)
    assert margins.language > margins.overall


def test_a_sample_of_a_ranking_set_proves_no_less_than_the_whole(
    pocket: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower bound of the margin: among fewer passages noise changes less."""
    archive = sources.load("archive", config.Source(path=str(pocket / "archive"), split="confirmation"), 0)
    assert isinstance(archive, Ranking)
    sampled = power.smallest_margins(archive, encoder, SETTINGS.alpha, "ndcg_at_10")
    monkeypatch.setattr(power, "TEXTS", 100_000)
    whole = power.smallest_margins(archive, encoder, SETTINGS.alpha, "ndcg_at_10")
    assert 0.4 * whole.overall < sampled.overall < whole.overall
    assert sampled.language is not None
    assert whole.language is not None
    assert 0.4 * whole.language < sampled.language < whole.language
    few = dataclasses.replace(archive, **first(archive, 100))
    assert power.smallest_margins(few, encoder, SETTINGS.alpha, "ndcg_at_10").overall > 1.5 * whole.overall


def first(data: Ranking, count: int) -> dict[str, object]:
    """The first queries of a set, for `dataclasses.replace`."""
    assert data.language is not None
    assert data.ranges is not None
    return {
        "queries": data.queries[:count],
        "judgements": data.judgements[:count],
        "identical": data.identical[:count],
        "language": Languages.of(data.language.each()[:count]),
        "ranges": data.ranges[:count],
    }
