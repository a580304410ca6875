"""The edge of a displacement: predicted from two measurements, and closed in on with exact ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from adiabatic_ray import config
from adiabatic_ray.data import sets
from adiabatic_ray.evaluate import discordance, edge
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from tests.evaluate.test_benchmark import embed, evaluation_set

PREMISES, TRIPLETS = 150, 400


def shifted(seed: int) -> dict[str, sets.DataSet]:
    """Sets of texts that are angles: turning the queries gains on `t`, and first helps and then harms on `x`."""
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=TRIPLETS)
    triplets = np.concatenate([queries + rng.normal(0.5, 0.4, TRIPLETS), queries + rng.normal(-0.1, 0.6, TRIPLETS)])
    premises = rng.normal(size=PREMISES * 2)
    hypotheses = [premises + rng.normal(0.1, spread, PREMISES * 2) for spread in (0.2, 0.6, 0.8)]
    rows = np.arange(PREMISES * 2).reshape(PREMISES, 2)
    every = np.arange(TRIPLETS)
    return {
        "t": sets.Triplets(
            name="t",
            queries=[str(x) for x in queries],
            passages=[str(x) for x in triplets],
            query=every,
            positive=every,
            negative=every + TRIPLETS,
        ),
        "x": sets.Xnli(
            name="x",
            languages=["de", "en"],
            queries=[str(x) for x in premises],
            passages=[str(x) for x in np.concatenate(hypotheses)],
            premise=rows,
            **{key: rows + k * PREMISES * 2 for k, key in enumerate(("entailment", "neutral", "contradiction"))},
        ),
    }


@pytest.fixture(params=range(4))
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Benchmark:
    sets_ = [evaluation_set(tmp_path, one) for one in shifted(request.param).values()]
    return Benchmark(sets_, config.Objective(data="t"), config.Constraint(data="x", margin=5.0))


def measure_at(bench: Benchmark, largest: float) -> Callable[[float], Measurement]:
    return lambda scale: bench.measure(lambda texts: embed(texts, largest * scale))


def test_a_prediction_is_that_of_the_embeddings_between(bench: Benchmark) -> None:
    """Between two measurements the query embeddings are interpolated; the oracle does that with the embeddings."""
    measure = measure_at(bench, 1.2)
    exact = {0.0: bench.untouched(), 0.25: measure(0.25), 1.0: measure(1.0)}
    points = {point.scale: point for point in edge.profile(bench, exact)}
    assert sorted(points) == sorted(edge.GRID)
    for scale in (2**-5, 2**-1.5, 0.5, 2**-0.25):
        low, high = (0.0, 0.25) if scale < 0.25 else (0.25, 1.0)
        share = (scale - low) / (high - low)

        def between(texts: list[str], low: float = low, high: float = high, share: float = share) -> torch.Tensor:
            mixed = (1 - share) * embed(texts, 1.2 * low) + share * embed(texts, 1.2 * high)
            return torch.nn.functional.normalize(mixed, dim=-1)

        expected = bench.measure(between).metrics
        # A lead that is 0 up to rounding may fall on either side.
        assert points[scale].gain == pytest.approx(expected["gain"], abs=1.0)
        assert points[scale].constraint == pytest.approx(expected["constraint"], abs=0.1)


def test_what_was_measured_is_not_predicted(bench: Benchmark) -> None:
    measure = measure_at(bench, 1.2)
    exact = {0.0: bench.untouched(), 0.3: measure(0.3), 1.0: measure(1.0)}
    points = {point.scale: point for point in edge.profile(bench, exact)}
    for scale in (0.3, 1.0):
        assert points[scale].gain == exact[scale].metrics["gain"]
        assert points[scale].constraint == exact[scale].metrics["constraint"]
        assert points[scale].evidence == exact[scale].metrics["bound/evidence"]


def test_leads_are_those_that_outcomes_come_from(bench: Benchmark) -> None:
    measured = measure_at(bench, 0.7)(1.0)
    for name in ("t", "x"):
        assert torch.equal(discordance.outcomes(measured.readings[name]), measured.outcomes[name])


def test_the_edge_is_the_best_of_all_scales(bench: Benchmark) -> None:
    """The oracle measures every scale of the grid."""
    measure = measure_at(bench, 1.2)
    every = {scale: measure(scale).metrics for scale in edge.GRID}
    assert every[1.0]["constraint"] > 0  # else there is nothing to find
    first_infeasible = min(scale for scale, one in every.items() if one["constraint"] > 0)
    best = max(one["gain"] for scale, one in every.items() if scale < first_infeasible)
    measured = edge.carry(bench, measure, measure(1.0), limit=3)
    assert 1 <= len(measured) <= 3
    found = max(one.metrics["gain"] for one in measured.values() if one.metrics["constraint"] <= 0)
    assert found >= 0.9 * best


def test_a_feasible_displacement_is_its_own_edge(bench: Benchmark) -> None:
    measure = measure_at(bench, 0.12)
    whole = measure(1.0)
    assert whole.metrics["constraint"] <= 0 < whole.metrics["gain"]
    measured = edge.carry(bench, measure, whole, limit=3)
    assert measured == {}


def test_no_more_is_measured_than_allowed(bench: Benchmark) -> None:
    measured: list[float] = []

    def counted(scale: float) -> Measurement:
        measured.append(scale)
        return measure_at(bench, 1.2)(scale)

    edge.carry(bench, counted, counted(1.0), limit=1)
    assert len(measured) == 2


def test_a_displacement_that_only_harms_is_not_measured_again(bench: Benchmark) -> None:
    measure = measure_at(bench, -2.0)
    whole = measure(1.0)
    assert whole.metrics["gain"] < 0
    assert edge.carry(bench, measure, whole, limit=3) == {}
