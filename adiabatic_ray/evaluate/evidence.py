"""What a set says of a tuned encoder against the untouched one: values by unit and by group, of any metric.

A unit is what is drawn independently: a premise with all its pairs, a triplet, or a query. Its value is a discordance
(bool), of which less is better, or a ranking metric, of which more is better. Either way a degradation is a sum of
changes in percent of the untouched encoder's sum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.data.sets import Rows

OVERALL = "overall"
COMPARISONS = ("neutral", "contradiction")  # of XNLI: what the entailed hypothesis is compared with


@dataclass(frozen=True)
class Groups:
    """The values of the same units in several groups: `before` and `change` are `[n, groups]` (float64).

    `before` is the untouched encoder's, and `change` is how much worse the tuned one is. `rows` are the units' numbers
    in the set; without them they are all of it.
    """

    names: list[str]
    before: Tensor
    change: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class Evidence:
    """The values of both encoders, `[n]`, or of XNLI `[n, comparison, query language, text language]`.

    `languages` are those of the queries. `language` `[n]` is the language of each unit; a unit of XNLI has them all.
    """

    base: Tensor
    tuned: Tensor
    languages: Sequence[str] = ()
    language: Rows | None = None

    def __len__(self) -> int:
        return len(self.base)

    @functools.cached_property
    def change(self) -> Tensor:
        """How much worse each value is (float64)."""
        worse = self.tuned.double() - self.base.double()
        return worse if self.base.dtype == torch.bool else -worse

    @property
    def improvement(self) -> float:
        """The relative change for the better, in percent: of discordant triplets, or of the metric.

        Where the untouched encoder's sum is 0, it is 0 or infinite.
        """
        return improvement(float(self.base.double().sum()), float(self.change.sum()))

    @property
    def least(self) -> float:
        """What stands for a sum of 0 of the untouched encoder, where a degradation is relative to it."""
        return 1.0 if self.base.dtype == torch.bool else 1e-9

    def overall(self) -> Groups:
        """One group of everything."""
        total, change = (values.flatten(1).sum(1, keepdim=True) for values in self._cells)
        return Groups([OVERALL], total, change)

    def by_language(self) -> list[Groups]:
        """A group for each query language; none without languages."""
        base, change = self._cells
        if base.dim() > 2:
            return [Groups(list(self.languages), base.sum((1, 3)), change.sum((1, 3)))]
        if self.language is None:
            return []
        own = [(torch.from_numpy(self.language) == i).nonzero()[:, 0] for i in range(len(self.languages))]
        return [Groups([name], base[rows], change[rows], rows) for name, rows in zip(self.languages, own, strict=True)]

    def at(self, level: str) -> list[Groups]:
        """The groups of a level, or of the nearest coarser one that the set has."""
        base, change = self._cells
        if level == "pair" and base.dim() > 2:
            comparisons = COMPARISONS[: base.shape[1]]
            names = [f"{c}/{x}/{y}" for c in comparisons for x in self.languages for y in self.languages]
            return [Groups(names, base.flatten(1), change.flatten(1))]
        return (self.by_language() if level != OVERALL else []) or [self.overall()]

    @functools.cached_property
    def _cells(self) -> tuple[Tensor, Tensor]:
        """The base's values and the changes, `[n, 1]` or `[n, comparison, language, language]`."""
        base, change = self.base.double(), self.change
        return (base, change) if base.dim() > 1 else (base[:, None], change[:, None])


@dataclass(frozen=True)
class Guarded:
    """A guard's settings with its evidence. `label` names it before its groups, and is empty if it is the only one."""

    settings: config.Guard
    evidence: Evidence
    label: str = ""

    def named(self, group: str) -> str:
        """The name of one of its groups among those of all guards."""
        return f"{self.label}/{group}" if self.label else group


def improvement(before: float, worse: float) -> float:
    """The relative change for the better in percent, from the sum before and how much worse it got."""
    if before == 0:
        return 0.0 if worse == 0 else float("-inf") if worse > 0 else float("inf")
    return 100.0 * (0.0 - worse) / before  # without a negative zero
