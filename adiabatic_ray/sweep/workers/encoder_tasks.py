"""A sweep's work with the encoder outside of trials: embedding, confirming, exporting."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch

from adiabatic_ray import config, errors, storage
from adiabatic_ray.evaluate import edge
from adiabatic_ray.evaluate.benchmark import Benchmark, EvaluationSet, Measurement
from adiabatic_ray.evaluate.embedded_data import Data, EmbeddedData, EmbeddingBuilder, EmbeddingProgress
from adiabatic_ray.model import checkpoint, displacement, encoder, export, low_rank
from adiabatic_ray.search import space
from adiabatic_ray.sweep.cluster import connection
from adiabatic_ray.sweep.cluster.resources import Plan
from adiabatic_ray.sweep.workers import encoder_actors
from adiabatic_ray.trials.layout import ExportFolder, TrialFolder
from adiabatic_ray.trials.record import UNTOUCHED, Candidate, Confirmation, Evaluation, TrialRecord
from adiabatic_ray.trials.store import write_json

Item = TypeVar("Item")


class EncoderTasks:
    """Does this work in Ray tasks, or in this process if `here` is true.

    On a local cluster without GPUs this process is faster, since a task would import and load everything again. No
    trial runs at the same time, so a task has the CPUs of a whole node, and embedding uses all nodes.
    """

    def __init__(self, model: config.Model, plan: Plan, *, here: bool) -> None:
        self.encoder = encoder.load(model)
        self._embed = None if here else encoder_actors.on_cluster(model, plan)
        self._model, self._here = model, here
        self._resources = {"num_cpus": plan.filling_cpus, "num_gpus": min(1.0, plan.gpus)}

    def embed(self, sweep: config.Sweep, data: Data, cache: Path) -> Generator[EmbeddingProgress, None, EmbeddedData]:
        """Fill all tables under `cache`, yielding progress.

        Raises:
            MaskError: a freezing mask of the sweep does not fit the encoder or the rank.
        """
        for mask in space.masks(sweep):
            displacement.trained(self.encoder, mask, space.largest_rank(sweep))
        return (yield from EmbeddingBuilder(self.encoder, cache, self._embed).embedded_data(data))

    def run(self, work: Callable[..., Iterator[Item]], *arguments: Any) -> Iterator[Item]:
        """Yield what `work(encoder, *arguments)` yields.

        Raises:
            SweepError: the task's process died.
        """
        if self._here:
            yield from work(self.encoder, *arguments)
            return
        task = ray.remote(_with_encoder).options(num_returns="streaming", **self._resources)
        for reference in task.remote(work, self._model, *arguments):
            yield connection.get(reference)


def _with_encoder(work: Callable[..., Iterator[Item]], model: config.Model, *arguments: Any) -> Iterator[Item]:
    yield from work(encoder_actors.load(model), *arguments)


def untouched(sweep: config.Sweep, embedded: EmbeddedData, folder: TrialFolder) -> TrialRecord:
    """Measure the untouched encoder from its stored embeddings, and write its outcomes to `folder`."""
    now = time.time()
    points = (Evaluation(0, now, _untouched(sweep, embedded.selection, folder.outcomes).metrics),)
    confirmations: tuple[Confirmation, ...] = ()
    if embedded.confirmation:
        measurement = _untouched(sweep, embedded.confirmation, folder.confirmation_outcomes)
        _require_proof(sweep, embedded.confirmation, measurement)
        confirmations = (Confirmation(1.0, 0.0, measurement.metrics),)
    return TrialRecord(UNTOUCHED, {}, "complete", "", now, now, points, confirmations=confirmations)


def _untouched(sweep: config.Sweep, sets: Sequence[EvaluationSet], outcomes: Path) -> Measurement:
    benchmark = Benchmark(sets, sweep.search.gain, sweep.constraint)
    measurement = benchmark.untouched()
    benchmark.write_outcomes(outcomes, {1.0: measurement})
    return measurement


def _require_proof(sweep: config.Sweep, sets: Sequence[EvaluationSet], untouched: Measurement) -> None:
    """Require that the confirmation sets can prove any margin at all, in each language."""
    verdict = untouched.verdict
    assert verdict is not None
    unproved = [bound for bound in verdict.bounds if math.isinf(bound.upper)]
    if unproved:
        guards = sweep.constraint.guarded
        guard = next((one for one in guards if one.key == unproved[0].guard), guards[0])
        data = next(one.data for one in sets if one.data.name == guard.data)
        little = "gets too few wrong" if guard.metric == config.IMPROVEMENT else f"has too little {guard.metric}"
        groups = ", ".join(bound.name for bound in unproved)
        raise errors.DataError(
            f"evaluate.confirmation.{guard.data}: is too small to prove anything: of its {len(data):,} {data.unit} "
            f"the untouched encoder {little} ({groups}), so no margin can be shown to hold. Use more (`limit`), or "
            "other `languages`."
        )


def confirm(
    model: encoder.Encoder,
    sweep: config.Sweep,
    embedded: EmbeddedData,
    candidates: Sequence[tuple[TrialFolder, float, float]],
) -> Iterator[Confirmation]:
    """Test candidates on the confirmation sets one after the other, up to the first that fails, and yield the tests.

    A candidate is given by its trial's folder, its scale and its gain on selection. The discordance and the outcomes
    are written to the folder.

    Raises:
        SweepError: a displacement was not kept, or does not fit the encoder.
    """
    benchmark = Benchmark(embedded.confirmation, sweep.search.gain, sweep.constraint, model.device)
    for folder, scale, gain in candidates:
        measurement = measure(model, benchmark, stored_displacement(model, folder), scale)
        assert measurement.verdict is not None
        failure = measurement.verdict.failure
        if not failure or not storage.exists(folder.confirmation_discordance):
            benchmark.write_discordance(folder.confirmation_discordance, measurement)
        benchmark.add_outcomes(folder.confirmation_outcomes, scale, measurement)
        yield Confirmation(scale, gain, measurement.metrics, failure)
        if failure:
            return


def measure_selected(
    model: encoder.Encoder, sweep: config.Sweep, embedded: EmbeddedData, folder: TrialFolder, scale: float
) -> Iterator[Candidate]:
    """Measure a trial's displacement times `scale` on the selection sets, and write its outcomes to the folder.

    Raises:
        SweepError: the displacement was not kept, or does not fit the encoder.
    """
    benchmark = Benchmark(embedded.selection, sweep.search.gain, sweep.constraint, model.device)
    measurement = measure(model, benchmark, stored_displacement(model, folder), scale)
    benchmark.add_outcomes(folder.outcomes, scale, measurement)
    yield edge.candidate(scale, measurement)


def measure(
    model: encoder.Encoder, benchmark: Benchmark, deltas: Mapping[str, torch.Tensor], scale: float
) -> Measurement:
    """Measure the encoder that a displacement times `scale` makes of the untouched one."""
    weights = displacement.moved(model.parameters, deltas, scale)
    return benchmark.measure(lambda texts: model.encode(texts, "query", weights))


def export_candidate(
    model: encoder.Encoder, folder: TrialFolder, record: TrialRecord, card: str, target: ExportFolder
) -> Iterator[ExportFolder]:
    """Export a trial's candidate, or its whole displacement if it has none, and its record to the folder `target`.

    Yields the folder when it is complete.

    Raises:
        SweepError: the displacement was not kept, or does not fit the encoder.
    """
    stored, scale = stored_displacement(model, folder), (record.candidate or record.whole).scale
    with storage.building(target.path, last=ExportFolder.RECORD) as partial:
        out = ExportFolder(partial)
        export.hand_over(model, out, displacement.moved(model.parameters, stored, scale), card)
        if low_rank.is_factored(stored):
            export.save_adapter(model, out.query_adapter, stored, scale, card)
        write_json(out.record, dataclasses.asdict(record))
    yield target


def stored_displacement(model: encoder.Encoder, folder: TrialFolder) -> Mapping[str, torch.Tensor]:
    """A trial's displacement, or its factors where it is of low rank, by parameter name.

    Raises:
        SweepError: the displacement was not kept, its file is damaged, or it was tuned from another model.
    """
    stored = checkpoint.load(folder.displacement)
    if stored is None:
        raise errors.SweepError(
            f"{folder.displacement} is missing or damaged. Only the best trials' displacements are kept "
            "(`budget.confirm`); to have this one again, run its configuration in a sweep of another name."
        )
    without_values = {name: tensor.to("meta") for name, tensor in stored.tensors.items()}
    shapes = {name: delta.shape for name, delta in low_rank.products(without_values)}
    unknown = [name for name in shapes if name not in model.parameters]
    misshapen = [n for n, shape in shapes.items() if n not in unknown and shape != model.parameters[n].shape]
    if unknown or misshapen:
        raise errors.SweepError(
            f"{folder.displacement} does not fit {model.settings.name}: it moves `{(unknown + misshapen)[0]}`, which "
            f"the model {'lacks' if unknown else 'has in another shape'}. It was tuned from another model of that "
            "name; give the sweep its own again."
        )
    return stored.tensors
