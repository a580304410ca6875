"""Tests of significance against scipy, and the constraint against its definition written out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from adiabatic_ray import config
from adiabatic_ray.evaluate import significance

NAMES = (["neutral", "contradiction"], ["de", "en", "sw"])


@pytest.mark.parametrize("broken", [0, 1, 2, 5, 17, 100, 4321])
@pytest.mark.parametrize("fixed", [0, 1, 3, 8, 20, 96, 5000])
def test_mcnemar_is_the_exact_binomial_test(broken: int, fixed: int) -> None:
    expected = stats.binomtest(broken, broken + fixed, 0.5).pvalue if broken + fixed else 1.0
    assert significance.mcnemar(broken, fixed) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def settings(**changes: Any) -> config.Constraint:
    return config.Constraint(data="xnli", **changes)


def outcomes(seed: int, harm: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Base outcomes of 50 premises, and tuned ones of which some are broken and some fixed."""
    rng = np.random.default_rng(seed)
    base = rng.random((50, 2, 3, 3)) < 0.3
    tuned = base.copy()
    tuned[(rng.random(base.shape) < harm) & ~base] = True
    tuned[(rng.random(base.shape) < 0.1) & base] = False
    return torch.from_numpy(base), torch.from_numpy(tuned)


def written_out(base: torch.Tensor, tuned: torch.Tensor, alpha: float, margin: float) -> tuple[float, float, float]:
    """The constraint at the level of pairs, its worst z and its upper bound, in loops over Python numbers."""
    z_values = []
    for c, x, y in itertools.product(range(2), range(3), range(3)):
        pairs = list(zip(base[:, c, x, y].tolist(), tuned[:, c, x, y].tolist(), strict=True))
        broken, fixed = pairs.count((False, True)), pairs.count((True, False))
        z_values.append((broken - fixed) / math.sqrt(broken + fixed) if broken + fixed else 0.0)
    critical = stats.norm.isf(alpha / 2 / len(z_values))
    sums = [
        sum(int(t) - int(b) for b, t in zip(base[i].flatten().tolist(), tuned[i].flatten().tolist(), strict=True))
        for i in range(len(base))
    ]
    mean = sum(sums) / len(sums)
    deviation = math.sqrt(sum((s - mean) ** 2 for s in sums))
    upper = 100 * (sum(sums) + stats.norm.isf(0.05) * deviation) / int(base.sum())
    return max((max(z_values) - critical) / critical, (upper - margin) / margin), max(z_values), upper


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("alpha", "margin"), [(0.05, 1.0), (0.2, 40.0)])
def test_constraint_against_its_definition(seed: int, alpha: float, margin: float) -> None:
    base, tuned = outcomes(seed)
    found = significance.violation(base, tuned, NAMES, settings(alpha=alpha, margin=margin))
    value, worst_z, upper = written_out(base, tuned, alpha, margin)
    assert found.value == pytest.approx(value)
    assert found.worst_z == pytest.approx(worst_z)
    assert found.upper == pytest.approx(upper)
    assert found.feasible == (value <= 0)


def test_both_parts_can_decide() -> None:
    """A single pair that is hurt violates (a) alone; harm spread thinly violates (b) alone."""
    base = torch.zeros(100, 2, 3, 3, dtype=torch.bool)
    base[:50] = True
    hurt, thin = base.clone(), base.clone()
    hurt[50:80, 1, 2, 0] = True
    found = significance.violation(base, hurt, NAMES, settings(margin=10.0))
    assert found.worst == "contradiction/sw/de"
    assert found.worst_z == pytest.approx(math.sqrt(30))
    assert found.value == pytest.approx((found.worst_z - found.critical_z) / found.critical_z)
    assert found.harmful
    thin[50:53] = True
    found = significance.violation(base, thin, NAMES, settings(margin=1.0))
    assert found.worst_z < found.critical_z
    assert found.value == pytest.approx((found.upper - 1.0) / 1.0)
    assert not found.feasible


def test_untouched_encoder_is_feasible_by_definition() -> None:
    base, _ = outcomes(0)
    found = significance.violation(base, base, NAMES, settings())
    assert (found.value, found.worst_z, found.degradation, found.harmful) == (-1.0, 0.0, 0.0, False)


def test_correction_counts_the_groups_of_the_level() -> None:
    base, tuned = outcomes(1)
    critical = {
        level: significance.violation(base, tuned, NAMES, settings(level=level)).critical_z
        for level in ("pair", "language", "overall")
    }
    assert critical == {
        "pair": pytest.approx(stats.norm.isf(0.025 / 18)),
        "language": pytest.approx(stats.norm.isf(0.025 / 3)),
        "overall": pytest.approx(stats.norm.isf(0.025)),
    }


def test_levels_group_by_query_language_and_cluster_by_premise() -> None:
    base, tuned = outcomes(2, harm=0.3)
    change = tuned.double().numpy() - base.double().numpy()
    by_language = {name: change[:, :, i].sum((1, 2)) for i, name in enumerate(NAMES[1])}
    z = {name: sums.sum() / math.sqrt((sums**2).sum()) for name, sums in by_language.items()}
    found = significance.violation(base, tuned, NAMES, settings(level="language"))
    assert (found.worst, found.worst_z) == (max(z, key=lambda name: z[name]), pytest.approx(max(z.values())))
    sums = change.sum((1, 2, 3))
    overall = significance.violation(base, tuned, NAMES, settings(level="overall"))
    assert (overall.worst, overall.worst_z) == ("overall", pytest.approx(sums.sum() / math.sqrt((sums**2).sum())))


def test_false_alarms_are_as_rare_as_alpha_says() -> None:
    """Where tuning breaks and fixes at random, (a) must alarm in at most about 5% of sweeps' trials."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        base = rng.random((80, 2, 3, 3)) < 0.4
        flipped = base ^ (rng.random(base.shape) < 0.2)
        # Breaking and fixing equally likely: flip a coin where the two differ.
        tuned = np.where(base != flipped, rng.random(base.shape) < 0.5, base)
        start = np.where(base != flipped, ~tuned, base)
        found = significance.violation(torch.from_numpy(start), torch.from_numpy(tuned), NAMES, settings(margin=1e9))
        alarms += found.value > 0
    assert alarms <= 0.05 * 400 + 2 * math.sqrt(0.05 * 0.95 * 400)
