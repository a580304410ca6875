"""Sums of displacements: the greedy "model soups" of Wortsman et al. 2022 (arXiv 2203.05482) for displaced encoders.

The displacements of good trials at their edges are added up, from best to worst. Each sum is carried to its own edge,
and a part stays in it only if the edge gains more on the selection sets than before. A mean, as of whole models, would
not do: unlike displacements partly cancel, so the edge of their mean lies beyond it.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from adiabatic_ray import config
from adiabatic_ray.evaluate import edge
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.evaluate.embedded_data import EmbeddedData
from adiabatic_ray.model import checkpoint, low_rank
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep.workers import encoder_tasks
from adiabatic_ray.trials.layout import TrialFolder
from adiabatic_ray.trials.record import SOUP, Evaluation, TrialRecord


@dataclass(frozen=True)
class Part:
    """A trial's number and folder, the scale of its edge, and the gain there."""

    number: int
    folder: TrialFolder
    scale: float
    gain: float


@dataclass(frozen=True)
class Soup:
    """A sum of displacements by parameter name; `shares` says what that of each trial is multiplied by in it."""

    deltas: Mapping[str, Tensor]
    shares: Mapping[int, float]

    @classmethod
    def of(cls, model: Encoder, part: Part) -> Soup:
        """A trial's displacement at its edge.

        Raises:
            SweepError: it was not kept, or does not fit the encoder.
        """
        whole = low_rank.products(encoder_tasks.stored_displacement(model, part.folder))
        return cls({name: part.scale * delta for name, delta in whole}, {part.number: part.scale})

    def scaled(self, scale: float) -> Soup:
        deltas = {name: scale * delta for name, delta in self.deltas.items()}
        return Soup(deltas, {number: scale * share for number, share in self.shares.items()})

    def __add__(self, other: Soup) -> Soup:
        """The sum by name. What a trial froze it has not moved."""
        both = {n: delta + other.deltas[n] if n in other.deltas else delta for n, delta in self.deltas.items()}
        return Soup({**other.deltas, **both}, {**self.shares, **other.shares})


def stir(
    model: Encoder, sweep: config.Sweep, embedded: EmbeddedData, parts: Sequence[Part], number: int, folder: TrialFolder
) -> Iterator[TrialRecord]:
    """Add the parts to the first one, each only if the edge of the sum gains more, and yield the record after each.

    The record is that of trial `number`, whose displacement, discordance and outcomes are written to `folder`. It is
    `stopped` as long as no sum gains more than the first part alone.

    Raises:
        SweepError: a displacement was not kept, or does not fit the encoder.
    """
    benchmark = Benchmark(embedded.selection, sweep.search.gain, sweep.constraint, model.device)
    first, *others = parts
    soup, gain = Soup.of(model, first), first.gain
    alone = f"no sum with the displacement of another trial gains more than trial {first.number} alone"
    record = TrialRecord(number, {SOUP: str(first.number)}, "stopped", alone, time.time())
    for part in others:
        mixture = soup + Soup.of(model, part)
        measure = functools.partial(encoder_tasks.measure, model, benchmark, mixture.deltas)
        whole = measure(1.0)
        measured = {1.0: whole, **edge.carry(benchmark, measure, whole, sweep.evaluate.exact)}
        mixed = _record(record, benchmark, mixture, measured)
        if mixed.edge is not None and mixed.edge.gain > gain:
            benchmark.write_discordance(folder.discordance, whole)
            benchmark.write_outcomes(folder.outcomes, measured)
            checkpoint.save(folder.displacement, checkpoint.Checkpoint(mixture.deltas, {"step": 0}))
            soup, gain, record = mixture.scaled(mixed.edge.scale), mixed.edge.gain, mixed
        yield dataclasses.replace(record, finished=time.time())


def _record(
    record: TrialRecord, benchmark: Benchmark, soup: Soup, measured: Mapping[float, Measurement]
) -> TrialRecord:
    """The record of a sum, as that of a trial that was trained."""
    *scaled, whole = [edge.candidate(scale, one) for scale, one in sorted(measured.items())]
    shares = {f"{SOUP}/{number}": share for number, share in soup.shares.items()}
    return dataclasses.replace(
        record,
        config={SOUP: "+".join(map(str, soup.shares))},
        state="complete",
        reason="",
        points=(Evaluation(0, time.time(), {**whole.metrics, **shares}),),
        worst=whole.worst,
        scaled=tuple(scaled),
        profile=tuple(edge.profile(benchmark, {0.0: benchmark.untouched(), **measured})),
    )
