"""The guarantee against scipy's t test and a search over margins, and its error rate on sweeps whose truth is known."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.evaluate import guarantee
from adiabatic_ray.evaluate.evidence import Evidence
from adiabatic_ray.evaluate.guarantee import Bound, Rung, Verdict
from tests import guards, simulated_sweeps
from tests.simulated_sweeps import LANGUAGES, SETTINGS, Candidate, Sample, harmless

TWO_IMAGINARY = 1 - NormalDist().cdf(2)  # of this error rate z is 2, and z^2 / 2 as well
EVEN = Candidate(0, 1.0, 0.1, (SETTINGS.margin,) * len(LANGUAGES), 10.0)


def settings(alpha: float = 0.05, margin: float = 2.0, language_margin: float = 5.0) -> config.Constraint:
    return config.Constraint(data="xnli", alpha=alpha, margin=margin, language_margin=language_margin)


def sums(base: Tensor, tuned: Tensor, group: str) -> tuple[list[int], list[int]]:
    """Each premise's changes and outcomes of the base, added up in a loop."""
    queries = range(base.shape[2]) if group == "overall" else [LANGUAGES.index(group)]
    before = [sum(int(premise[:, x].sum()) for x in queries) for premise in base]
    after = [sum(int(premise[:, x].sum()) for x in queries) for premise in tuned]
    return [a - b for a, b in zip(after, before, strict=True)], before


def enlarged(base: Tensor, tuned: Tensor, group: str) -> tuple[list[float], list[float]]:
    """The sums with two imaginary premises."""
    change, before = sums(base, tuned, group)
    together = sum(b * b for b in before) / sum(before)
    typical = (sum(d * d for d in change) + together) / (sum(abs(d) for d in change) + 1)
    n = len(before)
    return change + [sum(change) / n + typical] * 2, before + [sum(before) / n] * 2


def statistic(change: list[float], before: list[float], margin: float) -> float:
    contrasts = [d - margin / 100 * b for d, b in zip(change, before, strict=True)]
    return -float(stats.ttest_1samp(contrasts, 0, alternative="less").statistic)


@pytest.mark.parametrize("premises", [60, 300])
@pytest.mark.parametrize("candidate", [harmless(), harmless(0.01), EVEN], ids=["harmless", "little", "even"])
def test_statistics_are_those_of_scipys_t_test(premises: int, candidate: Candidate) -> None:
    sample = Sample(premises, 1)
    base, tuned = sample.base, sample.tuned(candidate)
    verdict = guards.verdict(base, tuned, LANGUAGES, settings(alpha=TWO_IMAGINARY))
    assert [bound.group for bound in verdict.bounds] == ["overall", *LANGUAGES]
    assert [bound.margin for bound in verdict.bounds] == [2.0, 5.0, 5.0, 5.0, 5.0]
    for bound in verdict.bounds:
        change, before = enlarged(base, tuned, bound.group)
        assert bound.statistic == pytest.approx(statistic(change, before, bound.margin))
        assert bound.p_value == pytest.approx(stats.t.sf(bound.statistic, premises - 1))
        distance = bound.margin - bound.degradation - bound.correction
        assert bound.statistic == pytest.approx(distance / bound.standard_error)
        observed, _ = sums(base, tuned, bound.group)
        assert bound.degradation == pytest.approx(100 * sum(observed) / sum(before[:-2]))


@pytest.mark.parametrize("candidate", [harmless(), harmless(0.3), EVEN], ids=["harmless", "noisy", "even"])
def test_upper_bound_is_the_margin_that_is_just_rejected(candidate: Candidate) -> None:
    sample = Sample(100, 2)
    base, tuned = sample.base, sample.tuned(candidate)
    verdict = guards.verdict(base, tuned, LANGUAGES, settings(alpha=TWO_IMAGINARY))
    critical = stats.t.isf(TWO_IMAGINARY, 99)
    assert [bound.critical for bound in verdict.bounds] == pytest.approx([critical] * len(verdict.bounds))
    for bound in verdict.bounds:
        change, before = enlarged(base, tuned, bound.group)
        low, high = bound.degradation, 1000.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (low, middle) if statistic(change, before, middle) > critical else (middle, high)
        assert bound.upper == pytest.approx(high, abs=1e-6)


def test_passing_is_a_bound_below_the_margin() -> None:
    verdicts = [Sample(n, n).verdict(harmless(size)) for n in range(2, 300, 7) for size in (0.02, 0.1, 0.4)]
    for verdict in verdicts:
        for bound in verdict.bounds:
            assert (bound.upper <= bound.margin) == (bound.statistic >= bound.critical)
            assert (bound.p_value <= verdict.alpha) == (bound.statistic >= bound.critical)
        assert verdict.passed == all(bound.upper <= bound.margin for bound in verdict.bounds)
        assert verdict.passed == (verdict.p_value <= verdict.alpha) == (verdict.evidence >= 0)
        assert verdict.p_value == max(bound.p_value for bound in verdict.bounds)
    assert {verdict.passed for verdict in verdicts} == {True, False}
    assert any(math.isinf(bound.upper) for verdict in verdicts for bound in verdict.bounds)


def test_one_language_decides() -> None:
    base = torch.zeros(400, 2, 4, 4, dtype=torch.bool)
    base[::2] = True
    tuned = base.clone()
    tuned[1:60:6, :, 2] = True  # 10 of 200 premises, in one language: 5% there, 1.25% overall
    verdict = guards.verdict(base, tuned, LANGUAGES, settings(margin=4.0, language_margin=6.0))
    assert [bound.degradation for bound in verdict.bounds] == pytest.approx([1.25, 0, 0, 5, 0])
    assert not verdict.passed
    assert min(verdict.bounds, key=lambda bound: bound.statistic).group == "l2"
    assert guards.verdict(base, tuned, LANGUAGES, settings(margin=4.0, language_margin=12.0)).passed


def test_triplets_have_the_overall_bound_alone() -> None:
    base = torch.arange(2000) % 4 == 0
    verdict = guards.verdict(base, base, [], settings())
    assert [bound.group for bound in verdict.bounds] == ["overall"]
    assert verdict.passed
    worse = base | (torch.arange(2000) % 40 == 1)  # 10% more
    assert not guards.verdict(base, worse, [], settings(margin=9.0)).passed


def test_nothing_changed_is_no_proof_in_a_small_set() -> None:
    """Of `n` triplets of which half are discordant the rule of three rules out harm of 3 triplets, not of less."""
    for n in (10, 100, 1000):
        base = torch.arange(n) % 2 == 0
        (bound,) = guards.verdict(base, base, [], settings()).bounds
        assert 3.0 <= bound.upper / 100 * n / 2 <= 4.5
        assert bound.degradation == 0


@pytest.mark.parametrize("broken", [0, 3])
def test_a_group_without_discordant_outcomes_proves_nothing(broken: int) -> None:
    sample = Sample(2000, 5)
    base, tuned = sample.base.clone(), sample.tuned(harmless(0.01))
    assert guards.verdict(base, tuned, LANGUAGES, settings()).passed
    base[:, :, 1], tuned[:, :, 1] = False, False
    tuned[:broken, 0, 1, 0] = True
    verdict = guards.verdict(base, tuned, LANGUAGES, settings(language_margin=1e6))
    bound = verdict.bounds[2]
    assert (bound.group, bound.upper, bound.degradation) == ("l1", math.inf, math.inf if broken else 0.0)
    assert bound.statistic <= 0
    assert not verdict.passed
    assert guarantee.times_needed(verdict) is None


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_premises_prove_nothing(n: int) -> None:
    sample = Sample(n, 0)
    verdict = guards.verdict(sample.base, sample.base, LANGUAGES, settings())
    assert not verdict.passed
    assert 0 < verdict.p_value <= 1


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.15], ids=["breaks only", "few changes", "many changes"])
@pytest.mark.parametrize("premises", [60, 150])
def test_error_rate_at_the_margin(premises: int, noise: float) -> None:
    """Each bound alone, of encoders whose true degradation equals the margin: 1,000 samples, 5% and 3 deviations."""
    settings = config.Constraint(data="xnli", margin=SETTINGS.language_margin, language_margin=SETTINGS.language_margin)
    candidate = Candidate(0, 1.0, noise, (settings.margin,) * len(LANGUAGES), 0.0)
    samples = [Sample(premises, seed) for seed in range(1000)]
    pairs = [(sample.base, sample.tuned(candidate)) for sample in samples]
    verdicts = [guards.verdict(base, tuned, LANGUAGES, settings) for base, tuned in pairs]
    p_values = np.array([[bound.p_value for bound in verdict.bounds] for verdict in verdicts])
    errors, allowed = (p_values <= 0.05).mean(0), 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(samples))
    assert (errors <= allowed).all()
    tuned, base = (torch.stack(outcomes)[:, :, :, 0].sum((2, 3)).numpy() for outcomes in zip(*pairs, strict=True))
    contrasts = base - (1 + settings.margin / 100) * tuned
    plain = stats.ttest_1samp(contrasts, 0, axis=1, alternative="less").pvalue <= 0.05
    if noise < 0.1 and premises == 60:
        assert plain.mean() > allowed  # without the imaginary premises


def rungs(rng: np.random.Generator, count: int) -> list[Rung]:
    """Candidates with few distinct values, so that there are ties."""
    gains, evidence = rng.integers(-5, 30, count), rng.integers(-8, 9, count)
    return [Rung(i, 0.1 * i, float(g), float(e)) for i, (g, e) in enumerate(zip(gains, evidence, strict=True))]


@pytest.mark.parametrize("seed", range(200))
def test_sequence_climbs_the_pareto_front(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, count = rungs(rng, int(rng.integers(0, 60))), int(rng.integers(1, 11))
    order = guarantee.sequence(points, count)
    assert len(order) <= count
    assert bool(order) == any(point.gain > 0 for point in points)
    for before, after in itertools.pairwise(order):
        assert before.gain < after.gain
        assert before.evidence > after.evidence
    for rung in order:
        assert rung.gain > 0
        assert not any(p.gain >= rung.gain and p.evidence > rung.evidence for p in points)
        assert not any(p.gain > rung.gain and p.evidence >= rung.evidence for p in points)
    gaining = [point for point in points if point.gain > 0]
    safe = [point for point in gaining if point.evidence >= guarantee.WIDE]
    if safe:
        assert order[0].gain == max(point.gain for point in safe)
    elif gaining:
        assert order[0].evidence == max(point.evidence for point in gaining)
    hopeful = [point.gain for point in gaining if point.evidence > -guarantee.WIDE]
    if count > 1 and hopeful:
        assert order[-1].gain == max(hopeful)
    rng.shuffle(points)
    reordered = guarantee.sequence(points, count)
    assert [(rung.gain, rung.evidence) for rung in reordered] == [(rung.gain, rung.evidence) for rung in order]


def test_sequence_takes_the_boldest_of_those_that_are_about_as_safe() -> None:
    points = [Rung(0, i / 100, float(i), 2.5 - i / 25) for i in range(1, 101)]
    order = guarantee.sequence(points, 5)
    assert [rung.gain for rung in order] == [4.0, 33.0, 62.0, 91.0, 100.0]
    for rung, step in zip(order, np.linspace(guarantee.WIDE, -guarantee.WIDE, 5), strict=True):
        assert rung.gain == max(point.gain for point in points if point.evidence >= step)
    assert [rung.gain for rung in guarantee.sequence(points, 1)] == [4.0]


def test_a_wide_margin_passes_again_with_a_probability_of_95_percent() -> None:
    selection, confirmation = np.random.default_rng(0).normal(size=(2, 200_000))
    truth = guarantee.WIDE - selection  # of candidates that are observed at this margin
    assert (truth + confirmation > 0).mean() == pytest.approx(0.95, abs=0.005)


def drawn(base: Tensor, tuned: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A set of `n` premises of the same kind."""
    index = torch.randint(len(base), (n,), generator=torch.Generator().manual_seed(seed))
    return base[index], tuned[index]


@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_premises_needed_let_a_candidate_pass(noise: float) -> None:
    sample, candidate = Sample(100, 6), harmless(noise)
    base, tuned = sample.base, sample.tuned(candidate)
    times = guarantee.times_needed(sample.verdict(candidate))
    assert times is not None
    needed = round(100 * times)

    def passes(n: int) -> float:
        pairs = [drawn(base, tuned, n, seed) for seed in range(200)]
        return sum(guards.verdict(*pair, LANGUAGES, SETTINGS).passed for pair in pairs) / len(pairs)

    assert 0.75 <= passes(needed) <= 0.97
    assert passes(needed // 2) < 0.75


def verdict_of(degradation: float, statistic: float, margin: float = 2.0) -> Verdict:
    error = (margin - degradation - 0.1) / statistic
    bound = Bound("overall", margin, degradation, 0.1, error, degradation + 1.645 * error, statistic, 0.5, 1.645, 300)
    return Verdict((bound,), 0.05)


def needed(verdict: Verdict, power: float = 0.8) -> int:
    times = guarantee.times_needed(verdict, power)
    assert times is not None
    return round(300 * times)


def test_premises_needed_by_the_degradation() -> None:
    assert guarantee.times_needed(verdict_of(2.0, -0.5)) is None
    assert guarantee.times_needed(verdict_of(2.5, -1.5)) is None
    assert guarantee.times_needed(verdict_of(1.9999999, -0.5)) is None  # a plan for more premises than there are
    # (1.645 + 0.842)^2 = 6.18 times as many for a statistic of 1, fewer since the correction shrinks
    assert needed(verdict_of(1.0, 1.0)) == pytest.approx(6.18 * 300 * 0.9**2, rel=0.05)
    assert needed(verdict_of(1.0, 0.5)) > needed(verdict_of(1.0, 1.0)) > needed(verdict_of(1.0, 2.0))
    assert needed(verdict_of(1.0, 1.0), power=0.95) > needed(verdict_of(1.0, 1.0))
    both = Verdict(verdict_of(1.0, 1.0).bounds + verdict_of(1.0, 0.8).bounds, 0.05)
    assert needed(both) > needed(verdict_of(1.0, 0.8))


@pytest.mark.parametrize("size", [0.0, 0.05, 0.5])
def test_noise_moves_embeddings_by_its_size(size: float) -> None:
    queries = torch.nn.functional.normalize(torch.randn(500, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    moved = guarantee.noisy(queries, size, torch.Generator().manual_seed(1))
    assert torch.allclose(moved.norm(dim=1), torch.ones(500))
    angle = math.atan(size)  # noise of many dimensions is at right angles to the embedding
    assert (moved - queries).norm(dim=1).mean().item() == pytest.approx(2 * math.sin(angle / 2), abs=0.01)


def test_harmless_encoders_pass_the_smallest_margins_as_often_as_promised() -> None:
    """The margins come from noise that harms; each share is over 20 sets with their own margins, 40 encoders each."""
    noisy = [Candidate(trial, 1.0, 0.1, noise_alone(0.1), 0.0) for trial in range(4)]
    overall, language = 0, 0
    for seed in range(20):
        known = Sample(200, 10_000 + seed)
        margins = guarantee.smallest_margins([evidence(known.base, known.tuned(c)) for c in noisy], SETTINGS.alpha)
        for fresh in range(40):
            bounds = Sample(200, seed * 40 + fresh).verdict(harmless(0.1)).bounds
            overall += bounds[0].upper <= margins.overall
            language += max(bound.upper for bound in bounds[1:]) <= (margins.language or 0)
    assert overall / 800 == pytest.approx(0.8, abs=0.06)
    assert language / 800 == pytest.approx(0.8, abs=0.06)


def evidence(base: Tensor, tuned: Tensor) -> Evidence:
    return Evidence(base, tuned, LANGUAGES)


def noise_alone(noise: float) -> tuple[float, ...]:
    """The degradations of noise without a shift, in percent."""
    normal = NormalDist()
    after = [normal.cdf(normal.inv_cdf(p) / math.sqrt(1 + noise**2)) for p in simulated_sweeps.DISCORDANT]
    return tuple(100 * (a - p) / p for a, p in zip(after, simulated_sweeps.DISCORDANT, strict=True))


def test_smallest_margins_of_triplets_and_with_more_power() -> None:
    base, tuned = Sample(50, 0).base.flatten(), Sample(50, 0).tuned(harmless()).flatten()
    margins = guarantee.smallest_margins([Evidence(base, tuned)], SETTINGS.alpha)
    assert margins.language is None
    assert guarantee.smallest_margins([Evidence(base, tuned)], SETTINGS.alpha, power=0.9).overall > margins.overall
    assert guarantee.smallest_margins([Evidence(base, base)], SETTINGS.alpha).overall < margins.overall


def test_the_model_has_the_degradations_it_claims() -> None:
    sample = Sample(40_000, 0)
    candidate = Candidate(3, 1.0, 0.2, (5.0, -2.0, 0.0, 8.0), 0.0)
    verdict = sample.verdict(candidate)
    assert sample.base.double().mean((0, 1, 3)).tolist() == pytest.approx(simulated_sweeps.DISCORDANT, abs=0.005)
    for bound, truth in zip(verdict.bounds, (candidate.overall, *candidate.degradations), strict=True):
        assert bound.degradation == pytest.approx(truth, abs=4 * bound.standard_error)
        assert bound.standard_error < 0.3


def check(outcomes: list[simulated_sweeps.Outcome]) -> None:
    """At most `alpha` of the sweeps hand over a harmful encoder, up to what chance adds in 1 of 1,000 runs."""
    tested = sum(outcome.tested is True for outcome in outcomes)
    naive = sum(outcome.naive is True for outcome in outcomes)
    assert tested <= stats.binom.isf(0.001, len(outcomes), SETTINGS.alpha)
    assert naive >= 0.4 * len(outcomes)
    assert sum(outcome.tested is False for outcome in outcomes) >= 0.1 * len(outcomes)


def test_a_sweep_rarely_hands_over_a_harmful_encoder() -> None:
    check(simulated_sweeps.run_all(96))


@pytest.mark.slow
def test_a_thousand_sweeps_rarely_hand_over_a_harmful_encoder() -> None:
    outcomes = simulated_sweeps.run_all(1000)
    check(outcomes)
    assert simulated_sweeps.interval(outcome.tested for outcome in outcomes)[0] <= SETTINGS.alpha
    for kind in simulated_sweeps.KINDS:
        tested = [outcome.tested is True for outcome in outcomes if outcome.kind == kind]
        assert sum(tested) <= stats.binom.isf(0.001, len(tested), SETTINGS.alpha)


def test_more_premises_let_more_harmless_encoders_pass() -> None:
    shares = [simulated_sweeps.passes(harmless(), n, 100) for n in (60, 250, 1000)]
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert shares[-1] > 0.95
