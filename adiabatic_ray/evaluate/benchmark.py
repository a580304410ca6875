"""Measuring an encoder on all evaluation sets against the untouched one."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from adiabatic_ray import config, errors, storage
from adiabatic_ray.data.cache import Table
from adiabatic_ray.data.sets import DataSet, Ranking, Triplets, Xnli
from adiabatic_ray.evaluate import discordance, outcomes, ranking, significance
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.model.encoder import Encode


@dataclass(frozen=True)
class Part:
    """An evaluation set with the untouched encoder's embeddings of its passages and of its queries."""

    data: DataSet
    passages: Table
    queries: Table


@dataclass(frozen=True)
class Measurement:
    """What one encoder did on the evaluation sets.

    `outcomes` holds the discordance of each triplet set (`[n]`) and XNLI set (`[n, 2, L, L]`), `metrics` every number
    that is reported, under the name it is tracked by; `violation` is `None` where no constraint was given.
    """

    outcomes: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    violation: significance.Violation | None


def check_roles(data: Mapping[str, DataSet], objective: str, constraint: config.Constraint) -> None:
    """Raise ConfigError unless the objective and the constraint name sets of a fitting kind."""
    if not isinstance(data[objective], Triplets):
        raise errors.ConfigError(
            f"search.objective: `{objective}` must be a set of triplets, but it is {_kind(data[objective])}."
        )
    if isinstance(data[constraint.data], Ranking):
        raise errors.ConfigError(
            f"constraint.data: `{constraint.data}` must be XNLI or triplets, but it is a ranking set."
        )


def _kind(data: DataSet) -> str:
    return {Triplets: "triplets", Xnli: "XNLI", Ranking: "a ranking set"}[type(data)]


class Benchmark:
    """Evaluation sets with all that stays the same between encoders: passages and the untouched encoder's outcomes."""

    def __init__(
        self, parts: Sequence[Part], objective: str | None = None, constraint: config.Constraint | None = None
    ) -> None:
        self.parts = parts
        self.objective, self.constraint = objective, constraint
        self._passages = {part.data.name: part.passages.open() for part in parts}
        self._base = {part.data.name: self._outcome(part.data, part.queries.open()) for part in parts}

    def measure(self, encode: Encode) -> Measurement:
        """Measure an encoder."""
        return self._compare(
            {part.data.name: self._outcome(part.data, encode(part.data.queries)) for part in self.parts}
        )

    def untouched(self) -> Measurement:
        """The untouched encoder's own measurement: no gain, no change."""
        return self._compare(self._base)

    def _outcome(self, data: DataSet, queries: Tensor) -> Tensor | dict[str, float]:
        passages = self._passages[data.name]
        if isinstance(data, Triplets):
            return discordance.triplets(data, queries, passages)
        if isinstance(data, Xnli):
            return discordance.xnli(data, queries, passages)
        return ranking.metrics(data, queries, passages)

    def _compare(self, found: Mapping[str, Tensor | dict[str, float]]) -> Measurement:
        metrics: dict[str, float] = {}
        tuned_outcomes: dict[str, Tensor] = {}
        for part in self.parts:
            name, base, tuned = part.data.name, self._base[part.data.name], found[part.data.name]
            if isinstance(tuned, dict):
                assert isinstance(base, dict)
                metrics |= {f"{metric}/{name}": value for metric, value in tuned.items()}
                metrics[f"ndcg_at_10_change/{name}"] = tuned["ndcg_at_10"] - base["ndcg_at_10"]
                continue
            assert isinstance(base, Tensor)
            tuned_outcomes[name] = tuned
            metrics[f"pnd/{name}"] = discordance.pnd(tuned)
            metrics[f"improvement/{name}"] = discordance.improvement(int(base.sum()), int(tuned.sum()))
            if isinstance(part.data, Xnli):
                for x, language in enumerate(part.data.languages):
                    before, after = int(base[:, :, x].sum()), int(tuned[:, :, x].sum())
                    metrics[f"improvement/{name}/{language}"] = discordance.improvement(before, after)
            else:
                broken, fixed = int((tuned & ~base).sum()), int((base & ~tuned).sum())
                metrics[f"p_value/{name}"] = significance.mcnemar(broken, fixed)
        if self.objective:
            metrics["gain"] = metrics[f"improvement/{self.objective}"]
            metrics["p_value"] = metrics[f"p_value/{self.objective}"]
        violation = self._violation(tuned_outcomes) if self.constraint else None
        if violation:
            metrics |= {
                "constraint": violation.value,
                "feasible": float(violation.feasible),
                "constraint/worst_z": violation.worst_z,
                "constraint/degradation": violation.degradation,
                "constraint/upper": violation.upper,
                "worst_language": self._worst_language(metrics),
            }
        return Measurement(tuned_outcomes, metrics, violation)

    def _violation(self, found: Mapping[str, Tensor]) -> significance.Violation:
        assert self.constraint is not None
        name = self.constraint.data
        base, tuned = self._base[name], found[name]
        assert isinstance(base, Tensor)
        data = next(part.data for part in self.parts if part.data.name == name)
        if isinstance(data, Xnli):
            names = (list(discordance.COMPARISONS), data.languages)
        else:
            base, tuned, names = base[:, None, None, None], tuned[:, None, None, None], (["negative"], [name])
        return significance.violation(base, tuned, names, self.constraint)

    def _worst_language(self, metrics: Mapping[str, float]) -> float:
        """The improvement of the query language that fared worst on the guarded set."""
        assert self.constraint is not None
        prefix = f"improvement/{self.constraint.data}"
        languages = [value for key, value in metrics.items() if key.startswith(f"{prefix}/")]
        return min(languages, default=metrics[prefix])

    def write_outcomes(self, path: Path, by_scale: Mapping[float, Measurement]) -> None:
        """Write the outcomes of a displacement at each of its scales."""
        languages = {part.data.name: part.data.languages for part in self.parts if isinstance(part.data, Xnli)}
        outcomes.save(path, Outcomes({scale: found.outcomes for scale, found in by_scale.items()}, languages))

    def write_discordance(self, path: Path, measurement: Measurement, *, paired: bool = True) -> None:
        """Write `discordance.csv`: one row a set, and for XNLI one a comparison and pair of languages."""
        columns = [*discordance.COLUMNS, *(discordance.PAIRED_COLUMNS if paired else ())]
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(columns)
        for part in self.parts:
            if not isinstance(part.data, Ranking):
                base = self._base[part.data.name]
                assert isinstance(base, Tensor)
                writer.writerows(
                    discordance.rows(part.data, measurement.outcomes[part.data.name], base if paired else None)
                )
        storage.write(path, table.getvalue())
