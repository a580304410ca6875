"""The adiabatic regime of each freezing mask, with intervals: how large a learning rate harms nobody, and still helps.

The edge is the step along the tried rates, from feasible trials to infeasible ones, that puts the fewest trials on its
wrong side; of equally good steps it is the lowest. The onset is the same step for the significance of the gain, among
the rates up to the edge. Intervals come from a bootstrap over premises, queries, and trials that share a rate.
`method.html` says more, and what the estimate assumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WRONG_SIDE = 0.25  # no step is identified where more than this share of the trials lies on its wrong side


@dataclass(frozen=True)
class TrialVerdicts:
    """What the regime needs of a trial: its mask and rate, its own verdicts, and those on each replicate `[r]`."""

    mask: str
    rate: float
    feasible: bool
    significant: bool
    feasible_draws: Tensor
    significant_draws: Tensor


@dataclass(frozen=True)
class Change:
    """Where something changes as the learning rate grows: between two neighbouring rates that were tried.

    `below` is the last rate before the change and `above` the first one after it; with 95% confidence the change lies
    between `low` and `high`. `None` stands for "beyond the rates that were tried".
    """

    below: float | None
    above: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Regime:
    """What one freezing mask allows. `rates` are those that were tried, ascending, and `trials` counts the trials.

    `edge` is where trials stop being feasible, and `onset` where the gain becomes significant. Either is `None` where
    it is not identified: fewer than two rates were tried, or the rate alone does not tell the trials apart.
    """

    mask: str
    rates: tuple[float, ...]
    trials: int
    edge: Change | None
    onset: Change | None


def regimes(trials: Sequence[TrialVerdicts], seed: int = 0) -> list[Regime]:
    """The regime of each mask, in the order of their first trials."""
    masks = dict.fromkeys(trial.mask for trial in trials)
    return [_regime(mask, [trial for trial in trials if trial.mask == mask], seed) for mask in masks]


def _regime(mask: str, trials: Sequence[TrialVerdicts], seed: int) -> Regime:
    rates = tuple(sorted({trial.rate for trial in trials}))
    if len(rates) < 2:
        return Regime(mask, rates, len(trials), None, None)
    drawn = _redrawn(trials, seed)
    infeasible_draws = ~torch.stack([trial.feasible_draws for trial in trials])
    edge = _change(rates, trials, [not trial.feasible for trial in trials], infeasible_draws, drawn)
    return Regime(mask, rates, len(trials), edge, None if edge is None else _onset(rates, trials, edge, drawn))


def _onset(rates: Sequence[float], trials: Sequence[TrialVerdicts], edge: Change, drawn: Tensor) -> Change | None:
    """The step in significance among the rates up to the edge; beyond it a gain may come and go."""
    if edge.below is None:
        return None
    inside = [i for i, trial in enumerate(trials) if trial.rate <= edge.below]
    return _change(
        [rate for rate in rates if rate <= edge.below],
        [trials[i] for i in inside],
        [trials[i].significant for i in inside],
        torch.stack([trials[i].significant_draws for i in inside]),
        drawn[inside],
    )


def _redrawn(trials: Sequence[TrialVerdicts], seed: int) -> Tensor:
    """How often each trial counts in each replicate `[trials, r]`: those of one rate are drawn again among each other.

    A trial whose rate nobody shares always counts once.
    """
    count = len(trials[0].feasible_draws)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(len(trials), count)
    for rate in {trial.rate for trial in trials}:
        sharing = torch.tensor([i for i, trial in enumerate(trials) if trial.rate == rate])
        chosen = sharing[torch.randint(len(sharing), (len(sharing), count), generator=generator)]
        drawn.scatter_add_(0, chosen, torch.ones(len(sharing), count))
    return drawn


def _change(
    rates: Sequence[float], trials: Sequence[TrialVerdicts], after: Sequence[bool], after_draws: Tensor, drawn: Tensor
) -> Change | None:
    """The step from "not after" to "after"; `None` where there is no clear one."""
    place = torch.tensor([rates.index(trial.rate) for trial in trials])
    once = torch.ones(len(trials), 1)
    wrong, step = _step(len(rates), place, torch.tensor(after)[:, None], once)
    if float(wrong) > WRONG_SIDE * len(trials):
        return None
    _, steps = _step(len(rates), place, after_draws, drawn)
    low, high = np.quantile(steps.numpy(), 0.025, method="lower"), np.quantile(steps.numpy(), 0.975, method="higher")
    k = int(step)
    return Change(_before(rates, k), _after(rates, k), _before(rates, int(low)), _after(rates, int(high)))


def _step(m: int, place: Tensor, after: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest step with the fewest trials on its wrong side: that number, and how many rates lie before it, `[r]`.

    `place` `[trials]` is each trial's rate by number, `after` `[trials, r]` on which side it belongs, `counts`
    `[trials, r]` how often it counts.
    """
    shape = (m, counts.shape[1])
    early = torch.zeros(shape).index_add_(0, place, counts * after.expand_as(counts))  # after, and wrong below the step
    late = torch.zeros(shape).index_add_(0, place, counts * ~after.expand_as(counts))
    nothing = torch.zeros(1, shape[1])
    wrong = torch.cat([nothing, early.cumsum(0)]) + torch.cat([late.flip(0).cumsum(0).flip(0), nothing])
    fewest = wrong.amin(dim=0)
    return fewest, (wrong == fewest).int().argmax(dim=0)


def _before(rates: Sequence[float], k: int) -> float | None:
    return rates[k - 1] if k > 0 else None


def _after(rates: Sequence[float], k: int) -> float | None:
    return rates[k] if k < len(rates) else None
