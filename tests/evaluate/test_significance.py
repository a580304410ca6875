"""McNemar's test against rational arithmetic and scipy, and the constraint against its definition written out."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
import pytest
import torch
from scipy import stats

from adiabatic_ray import config
from adiabatic_ray.evaluate import significance
from tests import guards

Level: TypeAlias = Literal["pair", "language", "overall"]

LANGUAGES = ["de", "en", "sw"]


def rational(broken: int, fixed: int) -> float:
    """The two-tailed p-value of McNemar's exact test in rational arithmetic, rounded once."""
    changed = broken + fixed
    tail = sum(math.comb(changed, k) for k in range(min(broken, fixed) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**changed)))


@pytest.mark.parametrize("broken", [0, 1, 2, 5, 17, 100, 300, 800])
@pytest.mark.parametrize("fixed", [0, 1, 3, 8, 20, 96, 300, 777])
def test_mcnemar_is_the_exact_binomial_test(broken: int, fixed: int) -> None:
    p_value = significance.mcnemar(broken, fixed)
    assert type(p_value) is float
    assert p_value == pytest.approx(rational(broken, fixed), rel=1e-12, abs=0)
    oracle = stats.binomtest(broken, broken + fixed).pvalue if broken + fixed else 1.0
    assert p_value == pytest.approx(oracle, rel=1e-11, abs=0)


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "fixed"), [(0, 1000), (5000, 5200), (4321, 5000), (5000, 5000), (0, 2000)])
def test_mcnemar_of_many_changes(broken: int, fixed: int) -> None:
    assert significance.mcnemar(broken, fixed) == pytest.approx(rational(broken, fixed), rel=1e-12, abs=0)


def test_mcnemar_of_a_table_is_that_of_each_cell() -> None:
    broken, fixed = np.random.default_rng(0).integers(0, 12, (2, 4, 5, 5))
    assert (broken + fixed == 0).any()
    p_values = significance.mcnemar(broken, fixed)
    assert p_values.shape == (4, 5, 5)
    assert p_values.dtype == np.float64
    cells = zip(broken.flat, fixed.flat, strict=True)
    assert p_values.flatten() == pytest.approx([rational(int(b), int(f)) for b, f in cells], rel=1e-12, abs=0)


def settings(alpha: float = 0.05, margin: float = 1.0, level: Level = "pair") -> config.Constraint:
    return config.Constraint(data="xnli", alpha=alpha, margin=margin, level=level)


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
    violation = guards.violation(base, tuned, LANGUAGES, settings(alpha=alpha, margin=margin))
    value, worst_z, upper = written_out(base, tuned, alpha, margin)
    assert violation.value == pytest.approx(value)
    assert violation.worst_z == pytest.approx(worst_z)
    assert violation.upper == pytest.approx(upper)
    assert violation.feasible == (value <= 0)


def test_both_parts_can_decide() -> None:
    """Harm to a single pair violates (a) alone; a little harm to every pair violates (b) alone."""
    base = torch.zeros(100, 2, 3, 3, dtype=torch.bool)
    base[:50] = True
    hurt, thin = base.clone(), base.clone()
    hurt[50:80, 1, 2, 0] = True
    violation = guards.violation(base, hurt, LANGUAGES, settings(margin=10.0))
    assert violation.worst == "contradiction/sw/de"
    assert violation.worst_z == pytest.approx(math.sqrt(30))
    assert violation.value == pytest.approx((violation.worst_z - violation.critical_z) / violation.critical_z)
    assert violation.harmful
    thin[50:53] = True
    violation = guards.violation(base, thin, LANGUAGES, settings(margin=1.0))
    assert violation.worst_z < violation.critical_z
    assert violation.value == pytest.approx((violation.upper - 1.0) / 1.0)
    assert not violation.feasible


def test_untouched_encoder_is_feasible_by_definition() -> None:
    base, _ = outcomes(0)
    violation = guards.violation(base, base, LANGUAGES, settings())
    assert (violation.value, violation.worst_z, violation.degradation, violation.harmful) == (-1.0, 0.0, 0.0, False)


def test_correction_counts_the_groups_of_the_level() -> None:
    base, tuned = outcomes(1)
    levels: tuple[Level, ...] = ("pair", "language", "overall")
    critical = {level: guards.violation(base, tuned, LANGUAGES, settings(level=level)).critical_z for level in levels}
    assert critical == {
        "pair": pytest.approx(stats.norm.isf(0.025 / 18)),
        "language": pytest.approx(stats.norm.isf(0.025 / 3)),
        "overall": pytest.approx(stats.norm.isf(0.025)),
    }


def test_levels_group_by_query_language_and_cluster_by_premise() -> None:
    base, tuned = outcomes(2, harm=0.3)
    change = tuned.double().numpy() - base.double().numpy()
    by_language = {name: change[:, :, i].sum((1, 2)) for i, name in enumerate(LANGUAGES)}
    z = {name: sums.sum() / math.sqrt((sums**2).sum()) for name, sums in by_language.items()}
    violation = guards.violation(base, tuned, LANGUAGES, settings(level="language"))
    assert (violation.worst, violation.worst_z) == (max(z, key=lambda name: z[name]), pytest.approx(max(z.values())))
    sums = change.sum((1, 2, 3))
    overall = guards.violation(base, tuned, LANGUAGES, settings(level="overall"))
    assert (overall.worst, overall.worst_z) == ("overall", pytest.approx(sums.sum() / math.sqrt((sums**2).sum())))


def test_false_alarms_are_as_rare_as_alpha_says() -> None:
    """Where tuning breaks and fixes at random, (a) must raise an alarm in at most about 5% of the trials."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        base = rng.random((80, 2, 3, 3)) < 0.4
        flipped = base ^ (rng.random(base.shape) < 0.2)
        # Breaking and fixing equally likely: flip a coin where the two differ.
        tuned = np.where(base != flipped, rng.random(base.shape) < 0.5, base)
        start = np.where(base != flipped, ~tuned, base)
        violation = guards.violation(torch.from_numpy(start), torch.from_numpy(tuned), LANGUAGES, settings(margin=1e9))
        alarms += violation.value > 0
    assert alarms <= 0.05 * 400 + 2 * math.sqrt(0.05 * 0.95 * 400)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.15])
def test_randomization_is_scipys_permutation_test(shift: float) -> None:
    rng = np.random.default_rng(3)
    change = np.where(rng.random(200) < 0.6, 0.0, rng.normal(shift, 0.3, 200))
    expected = stats.permutation_test(
        (change,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    ).pvalue
    ours = significance.randomization(torch.from_numpy(change))
    assert ours == pytest.approx(expected, abs=3 * math.sqrt(0.25 / 10_000) + 0.005)
    assert significance.randomization(torch.zeros(9)) == 1.0
