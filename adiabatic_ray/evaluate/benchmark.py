"""Measures encoders on all evaluation sets, against the untouched encoder."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from adiabatic_ray import config, errors, storage
from adiabatic_ray.data.cache import Table
from adiabatic_ray.data.sets import DataSet, Ranking, Triplets, Xnli
from adiabatic_ray.evaluate import discordance, guarantee, outcomes, ranking, significance
from adiabatic_ray.evaluate.evidence import Evidence, Guarded, improvement
from adiabatic_ray.model.encoder import Encode

# What an encoder does on a set, as far as it is linear in the queries: leads, or what a search found.
Reading: TypeAlias = Tensor | ranking.Found


@dataclass(frozen=True)
class EvaluationSet:
    """An evaluation set with the untouched encoder's embeddings of its passages and of its queries."""

    data: DataSet
    passages: Table
    queries: Table
    similarity: config.Similarity = "cosine"


@dataclass(frozen=True)
class Measurement:
    """The results of one encoder on the evaluation sets.

    `outcomes` holds the discordance (bool) of each triplet set (`[n]`) and XNLI set (`[n, 2, L, L]`) by the set's name,
    and the values (float32, `[n]`) of each ranking metric that the objective or a guard names by the metric's key, such
    as `mrr_at_10/questions`. `readings` holds what predictions need of the objective and of the guarded sets. `metrics`
    holds every number that is reported, by its name in MLflow. `violation` and `verdict` are `None` if no constraint
    was given.
    """

    outcomes: Mapping[str, Tensor]
    readings: Mapping[str, Reading]
    metrics: Mapping[str, float]
    violation: significance.Violation | None
    verdict: guarantee.Verdict | None


def check_roles(data: Mapping[str, DataSet], objective: config.Objective, constraint: config.Constraint) -> None:
    """Check that the objective and the guards name sets of a kind that has their metric, and margins of languages.

    Raises:
        ConfigError: a metric does not fit the kind of its set, or a guard has a margin for languages, but no languages.
    """
    _require_fit("search.objective", data[objective.data], objective.metric)
    key = "constraint.guards" if constraint.guards else "constraint.data"
    for guard in constraint.guarded:
        one = data[guard.data]
        _require_fit(key, one, guard.metric)
        if guard.language_margin is not None and not one.languages:
            raise errors.ConfigError(
                f"{key.replace('.data', '')}.language_margin: needs languages, and {_kind(one)} `{guard.data}` has "
                "none. Leave it out, or give the data a column `language`, or guard an XNLI set."
            )


def _require_fit(key: str, data: DataSet, metric: str) -> None:
    if isinstance(data, Ranking) == (metric == config.IMPROVEMENT):
        way_out = (
            f"Give a metric of rankings: `{{data: {data.name}, metric: ndcg_at_10}}`"
            if isinstance(data, Ranking)
            else "Leave the metric out"
        )
        raise errors.ConfigError(f"{key}: `{data.name}` is {_kind(data)}, which has no `{metric}`. {way_out}.")


def _kind(data: DataSet) -> str:
    return {Triplets: "a set of triplets", Xnli: "an XNLI set", Ranking: "a ranking set"}[type(data)]


class Benchmark:
    """Measures encoders on the same evaluation sets.

    It keeps what all measurements share: the passages' embeddings and the untouched encoder's outcomes. `objective`
    says whose improvement is the gain; without it a measurement has no gain. Rankings are searched for on `device`.
    """

    def __init__(
        self,
        sets: Sequence[EvaluationSet],
        objective: config.Objective | None = None,
        constraint: config.Constraint | None = None,
        device: torch.device = ranking.CPU,
    ) -> None:
        self.sets, self.device = sets, device
        self.objective = objective
        self.guards = constraint.guarded if constraint else []
        self.alpha = constraint.alpha if constraint else 0.0
        self._data = {one.data.name: one.data for one in sets}
        self._passages = {one.data.name: one.passages.open() for one in sets}
        # That of the encoder which embedded all of them.
        self._similarity: config.Similarity = next((one.similarity for one in sets), "cosine")
        self._judged = {name: ranking.Judged(data) for name, data in self._data.items() if isinstance(data, Ranking)}
        self._base_readings = self._read(lambda one: one.queries.open())
        self._base = self._outcomes(self._base_readings)
        self._base_means = self._means(self._base_readings)

    def measure(self, encode: Encode) -> Measurement:
        """Measure an encoder, given as a function from query texts to embeddings `[n, d]`."""
        return self._measured(self._read(lambda one: encode(one.data.queries)))

    def untouched(self) -> Measurement:
        """The untouched encoder's own measurement: no gain, no change."""
        return self._untouched

    @functools.cached_property
    def _untouched(self) -> Measurement:
        return self._measured(self._base_readings)

    def line(self, low: Measurement, high: Measurement) -> Callable[[float], Measurement]:
        """Predict measurements of encoders between two, on the objective and the guarded sets.

        Returns a function from the place of an encoder on the straight line from `low` (0) to `high` (1): its query
        embeddings are taken to lie there between theirs. A lead is linear in the query, and so is the score of a
        passage (by Manhattan distances only nearly), so no embedding is needed.
        """
        predictions = {name: self._between(name, low.readings[name], high.readings[name]) for name in low.readings}

        def predict(share: float) -> Measurement:
            return self._compare({}, {key: v for one in predictions.values() for key, v in one(share).items()})

        return predict

    def _between(self, name: str, low: Reading, high: Reading) -> Callable[[float], dict[str, Tensor]]:
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            assert isinstance(low, Tensor)
            assert isinstance(high, Tensor)
            return lambda share: {name: discordance.outcomes(torch.lerp(low, high, share))}
        metrics = self._named_metrics(name)
        found = ranking.between(low, high, self._passages[name], ranking.depth(metrics), self._similarity)
        return lambda share: self._values(name, found(share), metrics)

    def _read(self, queries: Callable[[EvaluationSet], Tensor]) -> dict[str, Reading]:
        """The leads of all triplets and XNLI sets, and what a search finds in all others, by the set's name."""
        readings: dict[str, Reading] = {}
        for one in self.sets:
            data, passages, embedded = one.data, self._passages[one.data.name], queries(one)
            if isinstance(data, Ranking):
                deepest = ranking.depth([*ranking.MEASURES, *self._named_metrics(data.name)])
                rows = ranking.search(data, embedded, passages, deepest, self.device, one.similarity)
                readings[data.name] = ranking.Found(embedded, rows)
            else:
                readings[data.name] = discordance.leads(data, embedded, passages, one.similarity)
        return readings

    def _outcomes(self, readings: Mapping[str, Reading]) -> dict[str, Tensor]:
        """Everything that is compared with the untouched encoder, by its key."""
        outcomes: dict[str, Tensor] = {}
        for name, reading in readings.items():
            if isinstance(reading, Tensor):
                outcomes[name] = discordance.outcomes(reading)
            else:
                outcomes |= self._values(name, reading.rows, self._named_metrics(name))
        return outcomes

    def _values(self, name: str, rows: Tensor, metrics: Iterable[str]) -> dict[str, Tensor]:
        """Metrics of each query of a ranking set, by their keys."""
        return {config.metric_key(name, metric): self._judged[name].values(rows, metric).float() for metric in metrics}

    def _named_metrics(self, name: str) -> list[str]:
        """The metrics that the objective and the guards name of a ranking set; without any roles all of `MEASURES`."""
        if not self._roles():
            return list(ranking.MEASURES)
        return list(dict.fromkeys(one.metric for one in self._roles() if one.data == name))

    def _roles(self) -> list[config.Objective | config.Guard]:
        return [*([self.objective] if self.objective else []), *self.guards]

    def _measured(self, readings: Mapping[str, Reading]) -> Measurement:
        metrics = self._means(readings)
        for name in self._judged:
            key = f"ndcg_at_10/{name}"
            metrics[f"ndcg_at_10_change/{name}"] = metrics[key] - self._base_means[key]
        outcomes = self._outcomes(readings)
        for key, outcome in outcomes.items():
            if outcome.dim() == 1 or (self.objective and key == self.objective.key):
                metrics[f"p_value/{key}"] = significance.p_value(self._evidence(key, outcome))
        if self.objective:
            metrics["p_value"] = metrics[f"p_value/{self.objective.key}"]
        needed = {one.data for one in self._roles()}
        kept = {name: reading for name, reading in readings.items() if name in needed}
        compared = self._compare(kept, outcomes)
        return dataclasses.replace(compared, metrics={**metrics, **compared.metrics})

    def _means(self, readings: Mapping[str, Reading]) -> dict[str, float]:
        """The metrics of the ranking sets, by the names under which they are stored and tracked."""
        return {
            config.metric_key(name, metric): float(self._judged[name].values(reading.rows, metric).mean())
            for name, reading in readings.items()
            if isinstance(reading, ranking.Found)
            for metric in dict.fromkeys([*ranking.MEASURES, *self._named_metrics(name)])
        }

    def _compare(self, readings: Mapping[str, Reading], outcomes: Mapping[str, Tensor]) -> Measurement:
        """Compare outcomes with the untouched encoder's."""
        metrics: dict[str, float] = {}
        for key, outcome in outcomes.items():
            evidence = self._evidence(key, outcome)
            if outcome.dtype == torch.bool:
                metrics[f"pnd/{key}"] = discordance.pnd(outcome)
            metrics[f"improvement/{key}"] = evidence.improvement
            metrics |= {
                f"improvement/{key}/{name}": improvement(float(before), float(change))
                for groups in evidence.by_language()
                for name, before, change in zip(groups.names, groups.before.sum(0), groups.change.sum(0), strict=True)
            }
        if self.objective:
            metrics["gain"] = metrics[f"improvement/{self.objective.key}"]
        violation, verdict = None, None
        if self.guards:
            guarded = self._guarded(outcomes)
            violation = significance.violation(guarded, self.alpha)
            verdict = guarantee.test(guarded, self.alpha)
            metrics |= {
                "constraint": violation.value,
                "feasible": float(violation.feasible),
                "constraint/worst_z": violation.worst_z,
                "constraint/degradation": violation.degradation,
                "constraint/upper": violation.upper,
                "worst_language": min(self._improvements(guard, metrics) for guard in self.guards),
                "bound/evidence": verdict.evidence,
                **{f"bound/{bound.name}": bound.upper for bound in verdict.bounds},
            }
        return Measurement(outcomes, readings, metrics, violation, verdict)

    def _evidence(self, key: str, outcome: Tensor) -> Evidence:
        data = self._data[key.rpartition("/")[2]]
        languages = () if isinstance(data, Xnli) else (data.language, data.text_language)
        return Evidence(self._base[key], outcome, data.languages, *languages)

    def _guarded(self, outcomes: Mapping[str, Tensor]) -> list[Guarded]:
        several = len(self.guards) > 1
        return [
            Guarded(guard, self._evidence(guard.key, outcomes[guard.key]), guard.key if several else "")
            for guard in self.guards
        ]

    def _improvements(self, guard: config.Guard, metrics: Mapping[str, float]) -> float:
        """The smallest improvement of any query language of a guard, or that of all of it without languages."""
        keys = [f"improvement/{guard.key}/{language}" for language in self._data[guard.data].languages]
        return min(metrics[key] for key in keys or [f"improvement/{guard.key}"])

    def write_outcomes(self, path: Path, by_scale: Mapping[float, Measurement]) -> None:
        """Write the outcomes of a displacement at several scales."""
        self._save_outcomes(path, {scale: measurement.outcomes for scale, measurement in by_scale.items()})

    def add_outcomes(self, path: Path, scale: float, measurement: Measurement) -> None:
        """Write the outcomes of a displacement at a scale beside those that `path` has of other scales."""
        earlier = outcomes.load(path)
        self._save_outcomes(path, {**(earlier.by_scale if earlier else {}), scale: measurement.outcomes})

    def _save_outcomes(self, path: Path, by_scale: Mapping[float, Mapping[str, Tensor]]) -> None:
        keys = dict.fromkeys(key for by_key in by_scale.values() for key in by_key)
        data = {key: self._data[key.rpartition("/")[2]] for key in keys}
        languages = {key: one.languages for key, one in data.items() if one.languages}
        of_units = {key: one for key, one in data.items() if not isinstance(one, Xnli)}
        language = {key: one.language for key, one in of_units.items() if one.language}
        text_language = {key: one.text_language for key, one in of_units.items() if one.text_language}
        outcomes.save(path, outcomes.Outcomes(by_scale, languages, language, text_language, self._similarity))

    def write_discordance(self, path: Path, measurement: Measurement, *, paired: bool = True) -> None:
        """Write `discordance.csv`: one row for a triplet set, and for XNLI one for each comparison and language pair.

        With `paired` the rows also compare with the untouched encoder.
        """
        columns = [*discordance.COLUMNS, *(discordance.PAIRED_COLUMNS if paired else ())]
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(columns)
        for one in self.sets:
            if not isinstance(one.data, Ranking):
                base = self._base[one.data.name]
                writer.writerows(
                    discordance.rows(one.data, measurement.outcomes[one.data.name], base if paired else None)
                )
        storage.write(path, table.getvalue())
