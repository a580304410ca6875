"""The adiabatic regime of each freezing mask, with intervals: how large a learning rate harms nobody, and still helps.

See `METHOD` for how it is estimated and what that assumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

METHOD = (
    "For each freezing mask, the edge is the step along the tried learning rates that puts the fewest trials on the "
    "wrong side: feasible ones below it, infeasible ones above it, and of equally good steps the lowest. The onset is "
    "the same step for the significance of the gain, among the rates up to the edge; the adiabatic regime lies between "
    "onset and edge. The 95% intervals come from a bootstrap: premises and queries are drawn again with replacement, "
    "and so are the trials that share a learning rate, such as repeated seeds; in each replicate the constraint, the "
    "significance and the step are computed anew, and the interval runs from the 2.5% quantile of the last rate before "
    "the step to the 97.5% quantile of the first one after it. It answers where the step would be found with other "
    "premises, queries and seeds from the same source. It assumes one step for each mask, whatever else the trials "
    "differ in (batch size, margin), knows nothing between the tried rates, and says 'not reached' where the step lies "
    "beyond them and 'not identified' where more than a quarter of the trials are on the wrong side of the best step."
)

WRONG_SIDE = 0.25  # a step with more trials than this on its wrong side is none


@dataclass(frozen=True)
class Trial:
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

    def __str__(self) -> str:
        low = "below what was tried" if self.low is None else f"{self.low:.3g}"
        high = "above what was tried" if self.high is None else f"{self.high:.3g}"
        return f"{low} to {high}"


@dataclass(frozen=True)
class Regime:
    """What one freezing mask allows: `rates` are those tried, ascending, `trials` how many stand behind it.

    `edge` is where trials stop being feasible, `onset` where the gain becomes significant; `None` where it is not
    identified. `verdict` says it in words.
    """

    mask: str
    rates: tuple[float, ...]
    trials: int
    edge: Change | None
    onset: Change | None
    verdict: str


def regimes(trials: Sequence[Trial], seed: int = 0) -> list[Regime]:
    """The regime of each mask, in the order of their first trials."""
    masks = dict.fromkeys(trial.mask for trial in trials)
    return [_regime(mask, [trial for trial in trials if trial.mask == mask], seed) for mask in masks]


def _regime(mask: str, trials: Sequence[Trial], seed: int) -> Regime:
    rates = tuple(sorted({trial.rate for trial in trials}))
    if len(rates) < 2:
        return Regime(mask, rates, len(trials), None, None, "not identified: fewer than two learning rates were tried.")
    drawn = _redrawn(trials, seed)
    edge = _change(
        rates, trials, [not t.feasible for t in trials], ~torch.stack([t.feasible_draws for t in trials]), drawn
    )
    if edge is None:
        verdict = "not identified: the learning rate alone does not tell feasible trials from infeasible ones."
        return Regime(mask, rates, len(trials), None, None, verdict)
    if edge.below is None:
        verdict = (
            f"not reached: already the smallest rate tried, {rates[0]:.3g}, is infeasible (95% interval of the edge: "
            f"{edge}). Search smaller ones."
        )
        return Regime(mask, rates, len(trials), edge, None, verdict)
    # The onset is looked for among the rates up to the edge: beyond it a gain may come and go.
    inside = [i for i, trial in enumerate(trials) if trial.rate <= edge.below]
    onset = _change(
        tuple(rate for rate in rates if rate <= edge.below),
        [trials[i] for i in inside],
        [trials[i].significant for i in inside],
        torch.stack([trials[i].significant_draws for i in inside]),
        drawn[inside],
    )
    return Regime(mask, rates, len(trials), edge, onset, _verdict(edge, onset))


def _verdict(edge: Change, onset: Change | None) -> str:
    if edge.above is None:
        text = f"feasible up to {edge.below:.3g}, the largest rate tried; the edge was not reached"
    else:
        text = f"feasible up to {edge.below:.3g}, and no longer at {edge.above:.3g}"
    text += f" (95% interval of the edge: {edge}); "
    if onset is None:
        return text + "where the gain becomes significant is not identified."
    if onset.above is None:
        return text + "no feasible rate has a significant gain: there is no adiabatic regime among the rates tried."
    smallest = ", the smallest rate tried" if onset.below is None else ""
    return f"{text}the gain is significant from {onset.above:.3g}{smallest} (95% interval of the onset: {onset}). " + (
        f"Adiabatic at {edge.below:.3g}."
        if onset.above == edge.below
        else f"Adiabatic from {onset.above:.3g} to {edge.below:.3g}."
    )


def _redrawn(trials: Sequence[Trial], seed: int) -> Tensor:
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
    rates: tuple[float, ...], trials: Sequence[Trial], after: Sequence[bool], after_draws: Tensor, drawn: Tensor
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
