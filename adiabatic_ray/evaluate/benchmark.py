"""Measures encoders on all evaluation sets, against the untouched encoder."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from adiabatic_ray import config, errors, storage
from adiabatic_ray.data.cache import Table
from adiabatic_ray.data.sets import DataSet, Ranking, Triplets, Xnli
from adiabatic_ray.evaluate import discordance, guarantee, outcomes, ranking, significance
from adiabatic_ray.model.encoder import Encode

Outcome: TypeAlias = Tensor | dict[str, float]  # discordance (bool), or the metrics of a ranking


@dataclass(frozen=True)
class EvaluationSet:
    """An evaluation set with the untouched encoder's embeddings of its passages and of its queries."""

    data: DataSet
    passages: Table
    queries: Table


@dataclass(frozen=True)
class Measurement:
    """The results of one encoder on the evaluation sets.

    `outcomes` holds the discordance (bool) of each triplet set (`[n]`) and XNLI set (`[n, 2, L, L]`), by the set's
    name, and `leads` the leads (float32) of the objective and of the guarded set. `metrics` holds every number that is
    reported, by its name in MLflow. `violation` and `verdict` are `None` if no constraint was given.
    """

    outcomes: Mapping[str, Tensor]
    leads: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    violation: significance.Violation | None
    verdict: guarantee.Verdict | None


def check_roles(data: Mapping[str, DataSet], objective: str, constraint: config.Constraint) -> None:
    """Check that the objective and the constraint name sets of a fitting kind.

    Raises:
        ConfigError: the objective is not a set of triplets, the constraint is a ranking set, or it has a margin for
            languages, but no languages.
    """
    if not isinstance(data[objective], Triplets):
        raise errors.ConfigError(
            f"search.objective: `{objective}` must be a set of triplets, but it is {_kind(data[objective])}."
        )
    if isinstance(data[constraint.data], Ranking):
        raise errors.ConfigError(
            f"constraint.data: `{constraint.data}` must be XNLI or triplets, but it is a ranking set."
        )
    if constraint.language_margin is not None and not isinstance(data[constraint.data], Xnli):
        raise errors.ConfigError(
            f"constraint.language_margin: needs languages, and the triplets of `{constraint.data}` have none. Leave it "
            "out, or guard an XNLI set."
        )


def _kind(data: DataSet) -> str:
    return {Triplets: "triplets", Xnli: "XNLI", Ranking: "a ranking set"}[type(data)]


class Benchmark:
    """Measures encoders on the same evaluation sets.

    It keeps what all measurements share: the passages' embeddings and the untouched encoder's outcomes. `objective`
    names the set whose improvement is the gain; without it a measurement has no gain.
    """

    def __init__(
        self, sets: Sequence[EvaluationSet], objective: str | None = None, constraint: config.Constraint | None = None
    ) -> None:
        self.sets = sets
        self.objective, self.constraint = objective, constraint
        self._passages = {one.data.name: one.passages.open() for one in sets}
        self._base_leads, self._base = self._read(lambda one: one.queries.open())

    def measure(self, encode: Encode) -> Measurement:
        """Measure an encoder, given as a function from query texts to unit-length embeddings `[n, d]`."""
        return self._compare(*self._read(lambda one: encode(one.data.queries)))

    def untouched(self) -> Measurement:
        """The untouched encoder's own measurement: no gain, no change."""
        return self._compare(self._base_leads, self._base)

    def between(self, low: Measurement, high: Measurement, share: float) -> Measurement:
        """Predict the measurement of an encoder between two, on the objective and the guarded set.

        Its query embeddings are taken to lie on the straight line from those of `low` (`share` 0) to those of `high`
        (`share` 1). A lead is linear in the query, so no embedding is needed.
        """
        leads = {name: torch.lerp(low.leads[name], high.leads[name], share) for name in low.leads}
        return self._compare(leads, {name: discordance.outcomes(one) for name, one in leads.items()})

    def _read(self, queries: Callable[[EvaluationSet], Tensor]) -> tuple[dict[str, Tensor], dict[str, Outcome]]:
        """The leads of the objective and the guarded set, and the outcomes of all sets, by name."""
        leads: dict[str, Tensor] = {}
        read: dict[str, Outcome] = {}
        searched = {self.objective, self.constraint.data if self.constraint else None}
        for one in self.sets:
            data, passages = one.data, self._passages[one.data.name]
            if isinstance(data, Ranking):
                read[data.name] = ranking.metrics(data, queries(one), passages)
                continue
            own = discordance.leads(data, queries(one), passages)
            read[data.name] = discordance.outcomes(own)
            if data.name in searched:
                leads[data.name] = own
        return leads, read

    def _compare(self, leads: Mapping[str, Tensor], tuned: Mapping[str, Outcome]) -> Measurement:
        metrics: dict[str, float] = {}
        for one in self.sets:
            if one.data.name in tuned:
                metrics |= _metrics(one.data, self._base[one.data.name], tuned[one.data.name])
        if self.objective:
            metrics["gain"] = metrics[f"improvement/{self.objective}"]
            metrics["p_value"] = metrics[f"p_value/{self.objective}"]
        discordant = {name: outcome for name, outcome in tuned.items() if isinstance(outcome, Tensor)}
        violation = self._violation(discordant) if self.constraint else None
        verdict = self._verdict(discordant) if self.constraint else None
        if violation and verdict:
            metrics |= {
                "constraint": violation.value,
                "feasible": float(violation.feasible),
                "constraint/worst_z": violation.worst_z,
                "constraint/degradation": violation.degradation,
                "constraint/upper": violation.upper,
                "worst_language": self._worst_language(metrics),
                "bound/evidence": verdict.evidence,
                **{f"bound/{bound.group}": bound.upper for bound in verdict.bounds},
            }
        return Measurement(discordant, leads, metrics, violation, verdict)

    def _violation(self, tuned: Mapping[str, Tensor]) -> significance.Violation:
        assert self.constraint is not None
        data, base = self._guard(self.constraint), self._base[self.constraint.data]
        assert isinstance(base, Tensor)
        if isinstance(data, Xnli):
            names = (list(discordance.COMPARISONS), data.languages)
            return significance.violation(base, tuned[data.name], names, self.constraint)
        # A triplet set is one group: one comparison in one language.
        before, after = base[:, None, None, None], tuned[data.name][:, None, None, None]
        return significance.violation(before, after, (["negative"], [data.name]), self.constraint)

    def _verdict(self, tuned: Mapping[str, Tensor]) -> guarantee.Verdict:
        """Whether the guarded set shows that the encoder is not worse, overall and in each language."""
        assert self.constraint is not None
        data, base = self._guard(self.constraint), self._base[self.constraint.data]
        assert isinstance(base, Tensor)
        languages = data.languages if isinstance(data, Xnli) else []
        return guarantee.test(base, tuned[data.name], languages, self.constraint)

    def _worst_language(self, metrics: Mapping[str, float]) -> float:
        """The smallest improvement of any query language on the guarded set."""
        assert self.constraint is not None
        data = self._guard(self.constraint)
        if isinstance(data, Xnli):
            return min(metrics[f"improvement/{data.name}/{language}"] for language in data.languages)
        return metrics[f"improvement/{data.name}"]

    def _guard(self, constraint: config.Constraint) -> DataSet:
        return next(one.data for one in self.sets if one.data.name == constraint.data)

    def write_outcomes(self, path: Path, by_scale: Mapping[float, Measurement]) -> None:
        """Write the outcomes of a displacement at several scales."""
        self._save_outcomes(path, {scale: measurement.outcomes for scale, measurement in by_scale.items()})

    def add_outcomes(self, path: Path, scale: float, measurement: Measurement) -> None:
        """Write the outcomes of a displacement at a scale beside those that `path` has of other scales."""
        earlier = outcomes.load(path)
        self._save_outcomes(path, {**(earlier.by_scale if earlier else {}), scale: measurement.outcomes})

    def _save_outcomes(self, path: Path, by_scale: Mapping[float, Mapping[str, Tensor]]) -> None:
        languages = {one.data.name: one.data.languages for one in self.sets if isinstance(one.data, Xnli)}
        outcomes.save(path, outcomes.Outcomes(by_scale, languages))

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
                assert isinstance(base, Tensor)
                writer.writerows(
                    discordance.rows(one.data, measurement.outcomes[one.data.name], base if paired else None)
                )
        storage.write(path, table.getvalue())


def _metrics(data: DataSet, base: Outcome, tuned: Outcome) -> dict[str, float]:
    """The metrics of one set, by the names under which they are stored and tracked."""
    if isinstance(tuned, dict):
        assert isinstance(base, dict)
        values = {f"{metric}/{data.name}": value for metric, value in tuned.items()}
        return values | {f"ndcg_at_10_change/{data.name}": tuned["ndcg_at_10"] - base["ndcg_at_10"]}
    assert isinstance(base, Tensor)
    values = {
        f"pnd/{data.name}": discordance.pnd(tuned),
        f"improvement/{data.name}": discordance.improvement(int(base.sum()), int(tuned.sum())),
    }
    if not isinstance(data, Xnli):
        broken, fixed = int((tuned & ~base).sum()), int((base & ~tuned).sum())
        return values | {f"p_value/{data.name}": significance.mcnemar(broken, fixed)}
    for x, language in enumerate(data.languages):
        before, after = int(base[:, :, x].sum()), int(tuned[:, :, x].sum())
        values[f"improvement/{data.name}/{language}"] = discordance.improvement(before, after)
    return values
