"""Intervals that cover what they claim, and a bootstrapped constraint that agrees with fresh samples."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.data.sets import Languages
from adiabatic_ray.evaluate import bootstrap
from adiabatic_ray.evaluate.evidence import Evidence
from tests import guards
from tests.simulation import NAMES, SETTINGS, paired, pairs


@pytest.mark.slow
@pytest.mark.parametrize("clustered", [False, True], ids=["queries", "premises"])
def test_intervals_cover_a_known_effect(clustered: bool) -> None:
    """1,000 repetitions: the 95% interval holds the true improvement in 93% to 97% of them."""
    generator, covered = torch.Generator().manual_seed(0), 0
    # A premise is moved as a whole or not at all, half of them are, and half of the outcomes are discordant.
    truth = 100 * (0.5 * 0.06 - 0.5 * 0.03) if clustered else 100 * (0.2 * 0.3 - 0.05 * 0.7) / 0.3
    for repetition in range(1000):
        if clustered:
            base, tuned = pairs(400, repetition)
        else:
            base, tuned = paired(1000, generator, fixed=0.2, broken=0.05)
        interval = bootstrap.improvement(Evidence(base, tuned), bootstrap.replicates(len(base), repetition, count=600))
        covered += interval.low <= truth <= interval.high
    assert 930 <= covered <= 970


def test_an_interval_agrees_with_scipys() -> None:
    base, tuned = paired(500, torch.Generator().manual_seed(1), fixed=0.2, broken=0.05)
    ours = bootstrap.improvement(Evidence(base, tuned), bootstrap.replicates(500, 0, count=5000))

    def statistic(before: Tensor, after: Tensor) -> float:
        return float(100 * (before.sum() - after.sum()) / before.sum())

    oracle = scipy.stats.bootstrap(
        (base.numpy(), tuned.numpy()), statistic, paired=True, vectorized=False, method="percentile",
        n_resamples=5000, random_state=0,
    ).confidence_interval  # fmt: skip
    assert ours.value == pytest.approx(statistic(base, tuned), abs=1e-4)
    assert (ours.low, ours.high) == (pytest.approx(oracle.low, abs=0.5), pytest.approx(oracle.high, abs=0.5))


def test_intervals_of_languages_agree_with_scipys() -> None:
    """Metric values, of which each query has one language."""
    generator = torch.Generator().manual_seed(2)
    before = torch.rand(600, generator=generator)
    after = (before + 0.1 * torch.randn(600, generator=generator)).clamp(0, 1)
    language = torch.arange(600) % 3
    evidence = Evidence(before, after, language=Languages(["de", "en", "tr"], language.numpy()))
    found = bootstrap.by_language(evidence, bootstrap.replicates(600, 0, count=5000))
    assert list(found) == ["de", "en", "tr"]
    for i, interval in enumerate(found.values()):
        own = before[language == i].double().numpy(), after[language == i].double().numpy()
        oracle = scipy.stats.bootstrap(
            own, lambda b, a: 100 * (a.sum() / b.sum() - 1), paired=True, vectorized=False, method="percentile",
            n_resamples=5000, random_state=0,
        ).confidence_interval  # fmt: skip
        assert interval.value == pytest.approx(100 * (own[1].sum() / own[0].sum() - 1), abs=1e-4)
        assert (interval.low, interval.high) == (
            pytest.approx(oracle.low, abs=0.4),
            pytest.approx(oracle.high, abs=0.4),
        )


def test_premises_count_in_each_of_their_languages() -> None:
    base, tuned = pairs(200, 3)
    drawn = bootstrap.replicates(200, 0)
    found = bootstrap.by_language(Evidence(base, tuned, NAMES), drawn)
    for i, name in enumerate(NAMES):
        alone = bootstrap.improvement(Evidence(base[:, :, [i]], tuned[:, :, [i]], [name]), drawn)
        assert found[name].value == pytest.approx(alone.value)
        assert found[name].low == pytest.approx(alone.low, abs=1e-4)


def test_nothing_changed_is_certain() -> None:
    base = torch.tensor([True, False, True, False])
    assert bootstrap.improvement(Evidence(base, base), bootstrap.replicates(4, 0)) == bootstrap.Interval(0.0, 0.0, 0.0)
    assert not bootstrap.significant(Evidence(base, base), bootstrap.replicates(4, 0), 0.05).any()


def feasible(base: Tensor, tuned: Tensor, drawn: Tensor, settings: config.Constraint) -> Tensor:
    return bootstrap.feasible([guards.guarded(base, tuned, NAMES, settings)], [drawn], settings.alpha)


@pytest.mark.parametrize("harm", [0.0, 0.04, 0.1])
def test_feasibility_in_replicates_is_that_in_fresh_samples(harm: float) -> None:
    """How often replicates of a sample are feasible is how often fresh samples are, on average over samples."""
    fresh, replicated = [], []
    for seed in range(60):
        base, tuned = pairs(400, seed, harm)
        fresh.append(guards.violation(base, tuned, NAMES, SETTINGS).feasible)
        drawn = bootstrap.replicates(len(base), seed, count=200)
        replicated.append(float(feasible(base, tuned, drawn, SETTINGS).float().mean()))
    share, mean = sum(fresh) / len(fresh), sum(replicated) / len(replicated)
    assert abs(share - mean) < 0.2
    assert (share > 0.8, share < 0.2) == {0.0: (True, False), 0.04: (False, False), 0.1: (False, True)}[harm]


def test_all_levels_are_bootstrapped() -> None:
    base, tuned = pairs(200, 0, harm=0.5)
    for level in ("pair", "language", "overall"):
        settings = config.Constraint(data="xnli", level=level)  # type: ignore[arg-type]
        assert not bootstrap.feasible(
            [guards.guarded(base, tuned, NAMES, settings)], [bootstrap.replicates(200, 0)], settings.alpha
        ).any()
        assert bootstrap.feasible(
            [guards.guarded(base, base, NAMES, settings)], [bootstrap.replicates(200, 0)], settings.alpha
        ).all()


def test_significance_in_replicates() -> None:
    """A gain far from chance is significant in every replicate, one at the critical value in about half of them."""
    base = torch.zeros(1000, dtype=torch.bool)
    base[:100] = True
    for fixed, low, high in ((100, 1.0, 1.0), (4, 0.3, 0.7), (0, 0.0, 0.0)):
        tuned = base.clone()
        tuned[:fixed] = False
        share = float(bootstrap.significant(Evidence(base, tuned), bootstrap.replicates(1000, 0), 0.05).float().mean())
        assert low <= share <= high, (fixed, share)
