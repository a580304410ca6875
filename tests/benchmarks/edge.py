"""Small learning rates against large steps at their edges: every trial of `sweeps/paper/edge_real.yaml` on unseen sets.

    adiabatic-ray sweep sweeps/paper/edge_real.yaml
    python -m tests.benchmarks.edge runs/edge_real

The first table shows what was predicted of each scale from the whole displacement alone, and what was measured there.
The second compares, seed by seed, the edge of each learning rate with the smallest rate's candidate on the confirmation
sets, which no trial has seen.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from scipy import stats

from adiabatic_ray import config
from adiabatic_ray.evaluate import embedded_data
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.evaluate.embedded_data import EmbeddingBuilder
from adiabatic_ray.model import encoder
from adiabatic_ray.model.displacement import moved
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep.workers import encoder_tasks
from adiabatic_ray.trials.layout import StorageFolder
from adiabatic_ray.trials.record import Candidate, TrialRecord, tuned
from adiabatic_ray.trials.store import TrialStore
from tests.generators import drain

Confirmed = dict[tuple[float, int], Mapping[str, float]]  # metrics on the confirmation sets, by learning rate and seed


def predictions(records: list[TrialRecord]) -> Iterator[str]:
    """What was predicted and what was measured, and what both cost."""
    yield "    rate seed  scale  gain predicted   exact  constraint predicted   exact"
    for record in records:
        for one in record.scaled:
            if "predicted/gain" not in one.metrics:
                continue  # a winner that was measured after its test
            values = [one.metrics[key] for key in ("predicted/gain", "gain", "predicted/constraint", "constraint")]
            chosen = f"{record.config['learning_rate']:8.0e} {record.config['seed']:4} {one.scale:6.3f}"
            yield f"{chosen} {values[0]:+15.2f} {values[1]:+7.2f} {values[2]:+21.2f} {values[3]:+7.2f}"
    yield f"exact measurements of a trial beside the whole: mean {statistics.fmean(len(r.scaled) for r in records):.1f}"
    profile, evaluation = (
        statistics.median(r.metrics[f"time/{key}_seconds"] for r in records) for key in ("profile", "evaluation")
    )
    yield f"a profile takes {profile:.2f} s, a measurement {evaluation:.1f} s"


def candidate(record: TrialRecord, smallest: float) -> Candidate | None:
    """The whole displacement of the smallest learning rate where it is feasible, and the edge of every other trial."""
    return record.whole if record.config["learning_rate"] == smallest and record.feasible else record.edge


def benchmarks(sweep: config.Sweep) -> tuple[Encoder, Benchmark, Benchmark]:
    """The sweep's encoder, and the benchmarks of its selection and of its confirmation sets."""
    model = encoder.load(sweep.model, encoder.default_device())
    cache = StorageFolder.at(sweep.storage).cache
    embedded = drain(EmbeddingBuilder(model, cache).embedded_data(embedded_data.read(sweep)))[1]
    selection, confirmation = (
        Benchmark(sets, sweep.search.gain, sweep.constraint) for sets in (embedded.selection, embedded.confirmation)
    )
    return model, selection, confirmation


def confirm(store: TrialStore, records: list[TrialRecord]) -> Confirmed:
    model, _, benchmark = benchmarks(store.sweep)
    smallest = min(record.config["learning_rate"] for record in records)
    confirmed: Confirmed = {}
    for record in records:
        chosen = candidate(record, smallest)
        stored = encoder_tasks.stored_displacement(model, store.folder.trial(record.number))
        weights = moved(model.parameters, stored, chosen.scale if chosen else 0.0)
        metrics = benchmark.measure(lambda texts, weights=weights: model.encode(texts, "query", weights)).metrics  # type: ignore[misc]
        confirmed[record.config["learning_rate"], record.config["seed"]] = metrics
        named = f"rate {record.config['learning_rate']:.0e}, seed {record.config['seed']}"
        bounds = [value for key, value in metrics.items() if key.startswith("bound/") and key != "bound/evidence"]
        others = ", ".join(
            f"{key.split('/')[1]} {value:+.2f}%" for key, value in metrics.items() if _is_improvement(key)
        )
        print(f"{named}, scale {chosen.scale if chosen else 0.0:.3f}: {others}", flush=True)
        print(f"    overall at most {metrics['bound/overall']:.2f}% worse, a language at most {max(bounds):.2f}%")
    return confirmed


def _is_improvement(key: str) -> bool:
    return key.startswith("improvement/") and key.count("/") == 1


def differences(confirmed: Confirmed) -> Iterator[str]:
    """The mean difference of each learning rate's edges from the smallest rate, over seeds, with its 95% interval."""
    rates, seeds = sorted({rate for rate, _ in confirmed}), sorted({seed for _, seed in confirmed})
    keys = [key for key in confirmed[rates[0], seeds[0]] if _is_improvement(key)]
    for rate in rates[1:]:
        for key in keys:
            paired = [confirmed[rate, seed][key] - confirmed[rates[0], seed][key] for seed in seeds]
            half = stats.t.ppf(0.975, len(seeds) - 1) * statistics.stdev(paired) / math.sqrt(len(seeds))
            mean = statistics.fmean(paired)
            yield (
                f"edge of {rate:.0e} less {rates[0]:.0e}, {key}: {mean:+.2f} "
                f"[{mean - half:+.2f}, {mean + half:+.2f}] over {len(seeds)} seeds"
            )


def main() -> None:
    store = TrialStore(Path(sys.argv[1]))
    records = [record for record in tuned(store.finished()) if record.state == "complete"]
    print("\n".join(predictions(records)))
    print("\n".join(differences(confirm(store, records))))


if __name__ == "__main__":
    main()
