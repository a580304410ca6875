"""What a set says of a tuned encoder against the untouched one: values by unit and by group, of any metric.

A unit is what is drawn independently: a premise with all its pairs, a triplet, or a query. Its value is a discordance
(bool), of which less is better, or a ranking metric, of which more is better. Either way a degradation is a sum of
changes in percent of the untouched encoder's sum.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.data.sets import Languages

OVERALL = "overall"
PAIR = ">"  # between the languages of a query and of its passages; XNLI has slashes, after the comparison
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

    A unit of XNLI has all of `languages`, in its query and in its texts. Another has a `language` of its query, if that
    is known, and a `text_language` of its passages, if they may be in another.
    """

    base: Tensor
    tuned: Tensor
    languages: Sequence[str] = ()
    language: Languages | None = None
    text_language: Languages | None = None

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
        return [self._group(name, self.language.rows == i) for i, name in enumerate(self.language.names)]

    def by_pair(self) -> list[Groups]:
        """A group for each query language and text language, of XNLI for each comparison too; none without both."""
        base, change = self._cells
        if base.dim() > 2:
            comparisons = COMPARISONS[: base.shape[1]]
            names = [f"{c}/{x}/{y}" for c in comparisons for x in self.languages for y in self.languages]
            return [Groups(names, base.flatten(1), change.flatten(1))]
        if self.language is None or self.text_language is None:
            return []
        spoken, written = self.language, self.text_language
        pairs = np.unique(np.stack([spoken.rows, written.rows]), axis=1).T.tolist()
        return [
            self._group(f"{spoken.names[x]}{PAIR}{written.names[y]}", (spoken.rows == x) & (written.rows == y))
            for x, y in pairs
        ]

    def at(self, level: str) -> list[Groups]:
        """The groups of a level, or of the nearest coarser one that the set has."""
        levels = {"pair": [self.by_pair, self.by_language], "language": [self.by_language], OVERALL: []}[level]
        return next((groups for one in levels if (groups := one())), [self.overall()])

    def _group(self, name: str, chosen: npt.NDArray[np.bool_]) -> Groups:
        """The group of some units that have one value each."""
        base, change = self._cells
        rows = torch.from_numpy(chosen.nonzero()[0])
        return Groups([name], base[rows], change[rows], rows)

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
