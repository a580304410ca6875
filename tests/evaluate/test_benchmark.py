"""Measuring on several sets at once: metrics by name, roles, and the table."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import stats

from adiabatic_ray import config, errors
from adiabatic_ray.data import cache, sets
from adiabatic_ray.evaluate import benchmark
from adiabatic_ray.evaluate.benchmark import Benchmark, EvaluationSet, Measurement
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
    return Benchmark(
        [evaluation_set(tmp_path, d) for d in data.values()], config.Objective(data="t"), config.Constraint(data="x")
    )


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
    bench = Benchmark([evaluation_set(tmp_path, data["t"])], config.Objective(data="t"), config.Constraint(data="t"))
    tuned = bench.measure(lambda texts: embed(texts, shift=0.8))
    assert tuned.violation is not None
    assert tuned.violation.worst == "overall"
    assert tuned.metrics["worst_language"] == tuned.metrics["gain"]


def test_roles_are_checked(data: dict[str, sets.DataSet]) -> None:
    triplets, guard = config.Objective(data="t"), config.Constraint(data="x")
    for objective in (triplets, config.Objective(data="x"), config.Objective(data="r", metric="map")):
        benchmark.check_roles(data, objective, guard)
    with pytest.raises(errors.ConfigError, match=r"search.objective: `x` is an XNLI set, which has no `map`. Leave"):
        benchmark.check_roles(data, config.Objective(data="x", metric="map"), guard)
    with pytest.raises(errors.ConfigError, match=r"constraint.data: `r` is a ranking set, .* metric: ndcg_at_10}`"):
        benchmark.check_roles(data, triplets, config.Constraint(data="r"))
    for name in ("t", "r"):
        metric = "mrr_at_10" if name == "r" else "improvement"
        guards = [config.Guard(data=name, metric=metric, language_margin=2.0)]
        with pytest.raises(errors.ConfigError, match=r"constraint.guards.language_margin: needs languages"):
            benchmark.check_roles(data, triplets, config.Constraint(guards=guards))


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


def many_rankings(seed: int) -> sets.Ranking:
    """A ranking set of 120 queries in three languages, each judged on a few passages near it."""
    rng = np.random.default_rng(seed)
    passages, queries = rng.normal(size=300), rng.normal(size=120)
    nearest = np.abs(passages[None] - queries[:, None]).argsort(1)
    judgements = [
        {int(row): int(rng.integers(1, 3)) for row in rng.choice(nearest[i, :12], 2, replace=False)} for i in range(120)
    ]
    return sets.Ranking(
        name="q",
        queries=[str(x) for x in queries],
        passages=[str(x) for x in passages],
        judgements=judgements,
        identical=np.full(120, -1),
        language=sets.Languages(["ar", "en", "sw"], np.arange(120) % 3),
    )


def written_out(data: sets.Ranking, shift: Callable[[int], float]) -> np.ndarray:
    """The reciprocal rank of the first relevant passage of each query, in a plain loop."""
    passages = [float(text) for text in data.passages]
    values = []
    for i, query in enumerate(data.queries):
        distances = [abs(float(query) + shift(i) - passage) for passage in passages]  # of angles
        ranked = sorted(range(len(passages)), key=lambda row: -math.cos(distances[row]))[:10]
        ranks = [rank for rank, row in enumerate(ranked, start=1) if data.judgements[i].get(row, 0) > 0]
        values.append(1 / ranks[0] if ranks else 0.0)
    return np.array(values)


MRR = config.Objective(data="q", metric="mrr_at_10")


@pytest.mark.parametrize("seed", range(3))
def test_a_ranking_metric_is_gain_and_guard(tmp_path: Path, data: dict[str, sets.DataSet], seed: int) -> None:
    ranked = many_rankings(seed)
    guards = [config.Guard(data="x"), config.Guard(data="q", metric="mrr_at_10", margin=20.0, language_margin=60.0)]
    sets_ = [evaluation_set(tmp_path, one) for one in (ranked, data["x"])]
    bench = Benchmark(sets_, MRR, config.Constraint(guards=guards))
    metrics = bench.measure(lambda texts: embed(texts, shift=0.01)).metrics
    before, after = written_out(ranked, lambda _: 0.0), written_out(ranked, lambda _: 0.01)
    assert metrics["mrr_at_10/q"] == pytest.approx(after.mean(), abs=1e-6)
    assert metrics["gain"] == pytest.approx(100 * (after.sum() / before.sum() - 1), abs=1e-4)
    swahili = slice(2, None, 3)
    expected = 100 * (after[swahili].sum() / before[swahili].sum() - 1)
    assert metrics["improvement/mrr_at_10/q/sw"] == pytest.approx(expected, abs=1e-4)
    mean = stats.permutation_test(
        (after - before,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    assert metrics["p_value"] == pytest.approx(mean.pvalue, abs=0.02)
    assert {key for key in metrics if key.startswith("bound/") and key.endswith("overall")} == {
        "bound/x/overall",
        "bound/mrr_at_10/q/overall",
    }


def test_harm_in_one_language_of_one_ranking_guard_is_found_and_named(
    tmp_path: Path, data: dict[str, sets.DataSet]
) -> None:
    ranked = many_rankings(0)
    harmed = set(ranked.queries[2::3])  # all in Swahili

    def encode(texts: Sequence[str]) -> torch.Tensor:
        return torch.stack([embed([text], 0.6 if text in harmed else 0.0)[0] for text in texts])

    sets_ = [evaluation_set(tmp_path, one) for one in (ranked, data["t"])]
    triplets = config.Guard(data="t", margin=90.0)
    both = [triplets, config.Guard(data="q", metric="mrr_at_10", margin=90.0, language_margin=3.0)]
    found = Benchmark(sets_, MRR, config.Constraint(guards=both)).measure(encode)
    assert found.violation is not None
    assert found.verdict is not None
    assert not found.violation.feasible
    assert found.violation.worst == "mrr_at_10/q/sw"
    assert "on mrr_at_10/q, sw may be" in found.verdict.failure
    without = Benchmark(sets_, MRR, config.Constraint(guards=[triplets])).measure(encode)
    assert without.violation is not None
    assert without.violation.feasible


@pytest.mark.parametrize("ranked", [True, False])
def test_harm_in_one_pair_of_languages_is_found_and_named(tmp_path: Path, ranked: bool) -> None:
    """Of queries in Swahili only those whose passages are in English get worse."""
    made = many_rankings(0)
    texts = sets.Languages(["en", "fr"], np.arange(120) // 3 % 2)
    one: sets.DataSet = dataclasses.replace(made, text_language=texts)
    if not ranked:
        near = np.abs(np.array(made.passages, float)[None] - np.array(made.queries, float)[:, None]).argsort(1)
        one = sets.Triplets(
            name="q",
            queries=made.queries,
            passages=made.passages,
            query=np.arange(120),
            positive=near[:, 0],
            negative=near[:, 40],
            language=made.language,
            text_language=texts,
        )
    harmed = {query for i, query in enumerate(made.queries) if i % 3 == 2 and i // 3 % 2 == 0}

    def encode(queries: Sequence[str]) -> torch.Tensor:
        return torch.stack([embed([text], 1.5 if text in harmed else 0.0)[0] for text in queries])

    metric = "mrr_at_10" if ranked else config.IMPROVEMENT
    found: dict[str, Measurement] = {}
    levels: tuple[Literal["pair", "language", "overall"], ...] = ("pair", "language", "overall")
    for level in levels:
        guard = config.Guard(data="q", metric=metric, margin=90.0, level=level)
        constraint = config.Constraint(guards=[guard])
        objective = config.Objective(data="q", metric=metric)
        found[level] = Benchmark([evaluation_set(tmp_path / level, one)], objective, constraint).measure(encode)
    worst = {level: measured.violation.worst for level, measured in found.items() if measured.violation}
    assert worst == {"pair": "sw>en", "language": "sw", "overall": "overall"}
    pair = found["pair"].violation
    assert pair is not None
    before, after = (one for one in (Benchmark([evaluation_set(tmp_path, one)]).untouched(), found["pair"]))
    key = guard.key if ranked else "q"
    change = after.outcomes[key].double() - before.outcomes[key].double()
    own = (-change if ranked else change).numpy()[[i for i in range(120) if i % 3 == 2 and i // 3 % 2 == 0]]
    assert pair.worst_z == pytest.approx(own.sum() / np.sqrt((own**2).sum()), abs=1e-6)
    assert pair.critical_z == pytest.approx(stats.norm.isf(0.05 / 2 / 6))  # six pairs


def test_a_line_predicts_rankings_without_searching(tmp_path: Path) -> None:
    ranked = many_rankings(1)
    bench = Benchmark(
        [evaluation_set(tmp_path, ranked)],
        MRR,
        config.Constraint(guards=[config.Guard(data="q", metric="mrr_at_10")]),
    )
    low, high = bench.untouched(), bench.measure(lambda texts: embed(texts, shift=0.05))
    predict = bench.line(low, high)
    for share in (0.25, 0.5, 0.9, 1.0):
        mixed = bench.measure(
            lambda texts, share=share: torch.nn.functional.normalize(
                torch.lerp(embed(texts), embed(texts, shift=0.05), share), dim=-1
            )
        )
        assert predict(share).metrics["gain"] == pytest.approx(mixed.metrics["gain"], abs=0.5)
        assert predict(share).metrics["constraint"] == pytest.approx(mixed.metrics["constraint"], abs=0.2)
