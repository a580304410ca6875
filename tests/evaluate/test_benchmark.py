"""Measuring on several sets at once: metrics by name, roles, and the table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from adiabatic_ray import config, errors
from adiabatic_ray.data import cache, sets
from adiabatic_ray.evaluate import benchmark
from adiabatic_ray.evaluate.benchmark import Benchmark, EvaluationSet
from tests.generators import drain


def embed(texts: Sequence[str], shift: float = 0.0) -> torch.Tensor:
    """An encoder made of the texts' digits; `shift` tunes it."""
    angles = torch.tensor([float(text) + shift for text in texts])
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def evaluation_set(root: Path, data: sets.DataSet) -> EvaluationSet:
    def table(texts: Sequence[str]) -> cache.Table:
        return drain(cache.fill(root, "model", texts, [embed(texts)], 2))[1]

    return EvaluationSet(sets.without_passages(data), table(data.passages), table(data.queries))


@pytest.fixture
def data() -> dict[str, sets.DataSet]:
    rng = np.random.default_rng(0)
    queries, passages = [str(x) for x in rng.normal(size=30)], [str(x) for x in rng.normal(size=60)]

    def rows(*shape: int, top: int) -> np.ndarray:
        return rng.integers(0, top, shape)

    shape = (20, 2)
    return {
        "t": sets.Triplets(
            name="t",
            queries=queries,
            passages=passages,
            query=rows(40, top=30),
            positive=rows(40, top=60),
            negative=rows(40, top=60),
        ),
        "x": sets.Xnli(
            name="x",
            languages=["de", "en"],
            queries=queries,
            passages=passages,
            premise=rows(*shape, top=30),
            **{key: rows(*shape, top=60) for key in ("entailment", "neutral", "contradiction")},
        ),
        "r": sets.Ranking(
            name="r",
            queries=queries[:3],
            passages=passages,
            judgements=[{0: 1}, {1: 1}, {2: 1, 3: 2}],
            identical=np.full(3, -1),
        ),
    }


@pytest.fixture
def bench(tmp_path: Path, data: dict[str, sets.DataSet]) -> Benchmark:
    return Benchmark([evaluation_set(tmp_path, d) for d in data.values()], "t", config.Constraint(data="x"))


def test_untouched_encoder_gains_and_harms_nothing(bench: Benchmark) -> None:
    for measured in (bench.untouched(), bench.measure(embed)):
        assert measured.metrics["gain"] == 0.0
        assert measured.metrics["p_value"] == 1.0
        assert measured.metrics["constraint"] == -1.0
        assert measured.metrics["feasible"] == 1.0
        assert measured.metrics["ndcg_at_10_change/r"] == 0.0
        assert measured.metrics["worst_language"] == 0.0


def test_a_tuned_encoder_is_measured_against_the_untouched(bench: Benchmark) -> None:
    base, tuned = bench.untouched(), bench.measure(lambda texts: embed(texts, shift=0.8))
    before, after = base.outcomes["t"], tuned.outcomes["t"]
    assert tuned.metrics["gain"] == pytest.approx(100 * (int(before.sum()) - int(after.sum())) / int(before.sum()))
    assert tuned.metrics["gain"] == tuned.metrics["improvement/t"] != 0
    assert tuned.metrics["pnd/x"] == pytest.approx(100 * float(tuned.outcomes["x"].float().mean()))
    by_language = [tuned.metrics[f"improvement/x/{language}"] for language in ("de", "en")]
    english = tuned.outcomes["x"][:, :, 1].sum(), base.outcomes["x"][:, :, 1].sum()
    assert by_language[1] == pytest.approx(100 * float(english[1] - english[0]) / float(english[1]))
    assert tuned.metrics["worst_language"] == min(by_language)
    assert tuned.violation is not None
    assert tuned.metrics["constraint"] == tuned.violation.value


def test_triplets_can_be_guarded_too(tmp_path: Path, data: dict[str, sets.DataSet]) -> None:
    bench = Benchmark([evaluation_set(tmp_path, data["t"])], "t", config.Constraint(data="t"))
    tuned = bench.measure(lambda texts: embed(texts, shift=0.8))
    assert tuned.violation is not None
    assert tuned.violation.worst == "negative/t/t"
    assert tuned.metrics["worst_language"] == tuned.metrics["gain"]


def test_roles_are_checked(data: dict[str, sets.DataSet]) -> None:
    benchmark.check_roles(data, "t", config.Constraint(data="x"))
    with pytest.raises(errors.ConfigError, match=r"search.objective: `x` must be a set of triplets, but it is XNLI"):
        benchmark.check_roles(data, "x", config.Constraint(data="x"))
    with pytest.raises(errors.ConfigError, match=r"constraint.data: `r` must be XNLI or triplets, but it is a ranking"):
        benchmark.check_roles(data, "t", config.Constraint(data="r"))


def test_table_of_outcomes(bench: Benchmark, tmp_path: Path) -> None:
    tuned = bench.measure(lambda texts: embed(texts, shift=0.8))
    bench.write_discordance(tmp_path / "d.csv", tuned)
    with (tmp_path / "d.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = "dataset,comparison,query_language,text_language,num_triplets,num_discordant,pnd"
    paired = "num_discordant_base,num_fixed,num_broken,improvement,p_value"
    assert ",".join(rows[0]) == f"{columns},{paired}"
    assert len(rows) == 1 + 2 * 2 * 2
    assert float(rows[0]["improvement"]) == pytest.approx(tuned.metrics["gain"])
    assert float(rows[0]["p_value"]) == pytest.approx(tuned.metrics["p_value"])
    bench.write_discordance(tmp_path / "d.csv", tuned, paired=False)
    with (tmp_path / "d.csv").open() as file:
        assert next(file).strip() == columns
