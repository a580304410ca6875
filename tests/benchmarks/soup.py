"""Averages of displacements ("soups", Wortsman et al. 2022): do the edges of several trials together beat the best one?

    python -m tests.benchmarks.soup SWEEP [SWEEP ...]

SWEEP is the folder of a finished sweep that kept the displacements of its best trials (`budget.confirm`). The soup
begins with the best trial's displacement at its edge. Of the next trials, from best to worst, each one's displacement
at its edge is added, and the sum is carried to its own edge. It is kept only if it gains more on the selection sets. A
mean would not do: unlike displacements partly cancel, so the edge of their mean lies beyond the mean.

Both the best trial and the soup are then measured on the confirmation sets. The last line compares them over all
sweeps, which should differ in their seeds alone.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scipy import stats
from torch import Tensor

from adiabatic_ray import storage
from adiabatic_ray.evaluate import edge
from adiabatic_ray.evaluate.benchmark import Benchmark, Measurement
from adiabatic_ray.model import checkpoint, displacement
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.trials.record import contenders
from adiabatic_ray.trials.store import TrialStore
from tests.benchmarks.edge import benchmarks

PARTS, EXACT = 6, 3

Deltas = Mapping[str, Tensor]


@dataclass(frozen=True)
class Soup:
    """A displacement at its edge, the numbers of the trials in it, and its gain on the selection sets."""

    deltas: Deltas
    trials: tuple[int, ...]
    gain: float


def greedy(model: Encoder, benchmark: Benchmark, parts: list[Soup]) -> Soup:
    """Add the parts to the first one, from best to worst, each only if it brings more gain."""
    soup = parts[0]
    for part in parts[1:]:
        mixture = _sum(soup.deltas, part.deltas)

        def measure(scale: float, mixture: Deltas = mixture) -> Measurement:
            return measured(model, benchmark, mixture, scale)

        whole = measure(1.0)
        exact = {1.0: whole, **edge.carry(benchmark, measure, whole, EXACT)}
        gain, scale = max(
            ((one.metrics["gain"], scale) for scale, one in exact.items() if one.metrics["constraint"] <= 0),
            default=(0.0, 0.0),
        )
        print(f"    {soup.trials} + {part.trials}: {gain:+.2f}% at {scale:.3f} of the sum, {soup.gain:+.2f}% before")
        if gain > soup.gain:
            soup = Soup({name: scale * delta for name, delta in mixture.items()}, (*soup.trials, *part.trials), gain)
    return soup


def measured(model: Encoder, benchmark: Benchmark, deltas: Deltas, scale: float = 1.0) -> Measurement:
    weights = displacement.moved(model.parameters, deltas, scale)
    return benchmark.measure(lambda texts: model.encode(texts, "query", weights))


def _sum(one: Deltas, other: Deltas) -> Deltas:
    """The sum by name. What a trial froze it has not moved."""
    both = {name: delta + other[name] if name in other else delta for name, delta in one.items()}
    return {**other, **both}


def parts(store: TrialStore) -> list[Soup]:
    """The displacements of the best trials at their edges, from best to worst."""
    found = []
    for record in contenders(store.records.values()):
        stored = checkpoint.load(store.folder.trial(record.number).displacement)
        if stored is not None and record.edge is not None:
            scale = record.edge.scale
            deltas = {name: scale * delta for name, delta in stored.tensors.items()}
            found.append(Soup(deltas, (record.number,), record.edge.gain))
    return sorted(found, key=lambda part: -part.gain)[:PARTS]


def main() -> None:
    differences = []
    for name in sys.argv[1:]:
        store = TrialStore(storage.folder(name))
        print(Path(name).name)
        model, selection, confirmation = benchmarks(store.sweep)
        best, *others = parts(store)
        soup = greedy(model, selection, [best, *others])
        gains = []
        for title, one in {"best trial": best, "soup": soup}.items():
            metrics = measured(model, confirmation, one.deltas).metrics
            bounds = [value for key, value in metrics.items() if key.startswith("bound/") and key != "bound/evidence"]
            gains.append(metrics["gain"])
            print(
                f"  {title}, trials {one.trials}: {one.gain:+.2f}% on selection, {metrics['gain']:+.2f}% confirmed; "
                f"overall at most {metrics['bound/overall']:.2f}% worse, a language {max(bounds):.2f}%"
            )
        differences.append(gains[1] - gains[0])
    if len(differences) > 1:
        mean, n = statistics.fmean(differences), len(differences)
        half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
        print(f"soup less best trial, confirmed: {mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}] over {n} sweeps")


if __name__ == "__main__":
    main()
