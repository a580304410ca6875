"""Describes what a sweep would do, without starting anything: trials, masks, data, resources, time."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence

import torch

from adiabatic_ray import config, errors
from adiabatic_ray.data import stored, tables, triplets
from adiabatic_ray.data.sets import DataSet, Ranking, Xnli
from adiabatic_ray.evaluate import agreement, embedded_data, power
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.model import displacement, encoder, freezing, tokens
from adiabatic_ray.search import space
from adiabatic_ray.sweep import session
from adiabatic_ray.sweep.cluster import nodes, resources
from adiabatic_ray.train import memory, trial

PROBE_STEPS = 5
PROBE_TEXTS = 64
PROBE_QUERIES = 2000  # of which the longest is looked for


def lines(sweep: config.Sweep) -> Iterator[str]:
    """The plan, line by line.

    Raises:
        AdiabaticRayError: the model, a mask, a local data set, or the cluster that RAY_ADDRESS names, would make the
            sweep fail.
    """
    yield f"sweep {sweep.name}: {space.describe_trials(sweep)}"
    plan = yield from _resource_lines(sweep)
    for key, choices in sweep.search.space.items():
        yield f"  {key}: {_shown(choices)}"
    model = yield from _model_lines(sweep)
    data = yield from _data_lines(sweep)
    if model is not None and data is not None:
        yield from _stored_lines(data, model)
        yield from _power_lines(sweep, data, model)
        yield _memory(sweep, data, model)
        if plan is not None:
            yield _time(sweep, plan, data, model)


def _resource_lines(sweep: config.Sweep) -> Generator[str, None, resources.Plan | None]:
    plan = None
    try:
        plan = resources.plan(sweep.resources, nodes.reachable(), space.num_trials(sweep))
        yield f"resources: {plan}"
    except errors.ResourceError as error:
        if "RAY_ADDRESS" in os.environ:
            raise
        yield f"resources: not on this machine, {error} Set RAY_ADDRESS to check against a cluster."
    try:
        session.require_lasting(sweep)
    except errors.ConfigError as error:  # the variable may be set where the sweep will run
        yield f"tracking: not from this machine, {error}"
    return plan


def _model_lines(sweep: config.Sweep) -> Generator[str, None, encoder.Encoder | None]:
    try:
        model = encoder.load(sweep.model)
    except encoder.HubUnreachable:
        yield f"model {sweep.model.name}: on the hub, which cannot be reached from here; its masks are not checked"
        return None
    yield (
        f"model {sweep.model.name}: {_count(model, model.parameters):,} parameters, {model.dimension} dimensions, "
        f"prompts {model.prompts}, {_most_tokens(model.max_length['query'])} a query and "
        f"{_most_tokens(model.max_length['passage'])} a passage"
    )
    for mask in space.masks(sweep):
        yield from _mask_lines(mask, space.largest_rank(sweep), model)
    return model


def _most_tokens(count: int) -> str:
    return f"at most {count} tokens" if count < tokens.UNLIMITED else "any number of tokens"


def _data_lines(sweep: config.Sweep) -> Generator[str, None, embedded_data.Data | None]:
    remote = [source.path for source in _sources(sweep) if tables.is_hub_id(source.path)]
    if remote:
        yield f"data on the hub, read when the sweep starts: {', '.join(dict.fromkeys(remote))}"
        return None
    data = embedded_data.read(sweep)
    for context, name, dataset in _sets(data):
        dropped = "".join(f", dropped {count:,} with {reason}" for reason, count in dataset.dropped.items())
        label = f"{context} {name}".strip()
        yield (
            f"{label}: {len(dataset):,} {dataset.unit}, {len(dataset.queries):,} query texts and "
            f"{len(dataset.passages):,} passage texts{dropped}"
        )
    return data


def _stored_lines(data: embedded_data.Data, model: encoder.Encoder) -> Iterator[str]:
    """Whether stored embeddings are those of the encoder."""
    for context, name, dataset in _sets(data):
        label = f"{context} {name}".strip()
        for placed, texts in stored.with_texts(() if isinstance(dataset, Xnli) else dataset.stored, dataset.passages):
            store = stored.open_store(label, placed.source, model.dimension)
            cosine = agreement.measure(label, texts, placed, store, model)
            yield (
                f"{label}: {int((placed.rows >= 0).sum()):,} of {len(texts):,} passages are stored in "
                f"{placed.source.path} ({store.precision}), and agree with the encoder (median cosine {cosine:.4f})"
            )


def _power_lines(sweep: config.Sweep, data: embedded_data.Data, model: encoder.Encoder) -> Iterator[str]:
    """What the confirmation sets can prove, from a sample of each guarded set."""
    if not data.confirmation:
        yield "guarantee: none, since there are no confirmation sets; the gain of the winner will look too large"
        return
    for guard in sweep.constraint.guarded:
        guarded = data.confirmation[guard.data]
        provable = power.smallest_margins(guarded, model, sweep.constraint.alpha, guard.metric)
        language = "" if provable.language is None else f", and {provable.language:.2g}% in every language"
        least = "at least " if isinstance(guarded, Ranking) else ""  # in a sample of its passages noise does less
        yield (
            f"guarantee: with {len(guarded):,} {guarded.unit} of {guard.key} an encoder that harms nobody passes with "
            f"a probability of 80% where it may be {least}{provable.overall:.2g}% worse overall{language}"
        )
        for key, allowed, smallest in (
            ("margin", guard.margin, provable.overall),
            ("language_margin", guard.margin_by_language, provable.language),
        ):
            if smallest is not None and allowed < smallest:
                yield (
                    f"  WARNING: `constraint.{key}` is {allowed:g}%, less than that: a harmless encoder may well fail. "
                    f"Confirm on more {guarded.unit}, or allow more"
                )


def _mask_lines(mask: str, rank: int | None, model: encoder.Encoder) -> Iterator[str]:
    matched = freezing.matches(mask, model.parameters, model.roles)
    left = displacement.trained(model, mask, rank)
    low = ""
    if rank is not None:
        factors = sum(rank * sum(model.parameters[name].shape) for name in left)
        low = f" ({len(left)} linear maps), with {factors:,} numbers at rank {rank}"
    yield f"mask {mask}: trains {_count(model, left):,} of {_count(model, model.parameters):,} parameters{low}"
    for pattern, names in matched.items():
        sample = ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
        yield f"  {pattern} freezes {len(names)} tensors, {_count(model, names):,} parameters: {sample}"


def _count(model: encoder.Encoder, names: Sequence[str] | Mapping[str, torch.Tensor]) -> int:
    return sum(model.parameters[name].numel() for name in names)


def _sources(sweep: config.Sweep) -> list[config.Source]:
    mined = sweep.train.negatives
    corpus = [mined.corpus] if mined and mined.corpus else []
    return [sweep.train.data, *corpus, *sweep.evaluate.selection.values(), *sweep.evaluate.confirmation.values()]


def _sets(data: embedded_data.Data) -> Iterator[tuple[str, str, DataSet]]:
    yield "train", "", data.train
    for name, dataset in data.selection.items():
        yield "selection", name, dataset
    for name, dataset in data.confirmation.items():
        yield "confirmation", name, dataset


def _shown(choices: config.Range | list[config.Scalar]) -> str:
    if isinstance(choices, list):
        return ", ".join(str(choice) for choice in choices)
    scale = ", on a log scale" if choices.log else ""
    step = f", in steps of {choices.step:g}" if choices.step else ""
    return f"{choices.low:g} to {choices.high:g}{scale}{step}"


def _memory(sweep: config.Sweep, data: embedded_data.Data, model: encoder.Encoder) -> str:
    """The memory of a trial, counted for the largest batch of the longest queries and the mask that freezes least."""
    settings = _heaviest(sweep)
    rank = space.largest_rank(sweep)
    masks = [displacement.trained(model, mask, rank) for mask in space.masks(sweep)]
    longest = max(map(len, model.tokenize(data.train.queries[:PROBE_QUERIES], "query")))
    most = max(masks, key=lambda names: _count(model, names))
    one = memory.of_step(model, most, settings.batch_size, longest, rank)
    passages = 4 * len(data.train.passages) * model.dimension
    return (
        f"memory of a trial, counted: {_gib(one.total + passages)} with {settings.batch_size} queries of {longest} "
        f"tokens ({_gib(one.weights)} weights, {_gib(one.displacement)} displacement and optimiser, "
        f"{_gib(one.activations)} activations, {_gib(passages)} passages); a GPU needs half a gigabyte beside it"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def _time(sweep: config.Sweep, plan: resources.Plan, data: embedded_data.Data, model: encoder.Encoder) -> str:
    """Estimate the time from a few steps and texts on this machine, with the space's largest batch and most steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, int(plan.cpus)))
    try:
        settings = _heaviest(sweep)
        per_query = _seconds_per_text(model, data.selection[sweep.search.gain.data].queries, "query")
        per_passage = _seconds_per_text(model, data.train.passages, "passage")
        per_step = _seconds_per_step(model, data, settings)
    finally:
        torch.set_num_threads(threads)
    filling = sum(_to_embed(dataset) for _, _, dataset in _sets(data)) * per_passage
    queries = sum(len(dataset.queries) for dataset in data.selection.values())
    evaluations = settings.evaluations + len(sweep.evaluate.scales)
    a_trial = triplets.steps(settings, data.train) * per_step + evaluations * queries * per_query
    whole = filling / max(1.0, plan.filling_cpus / plan.cpus) + a_trial * space.num_trials(sweep) / plan.concurrent
    return (
        f"time on this machine: about {_duration(a_trial)} a trial, {_duration(whole)} in all when nothing is cached "
        f"and no trial is stopped early ({1000 * per_step:.0f} ms a step, {1 / per_query:.0f} queries a second)"
    )


def _to_embed(data: DataSet) -> int:
    """How many passages are not stored."""
    if isinstance(data, Xnli) or not data.stored:
        return len(data.passages)
    return sum(int((one.rows < 0).sum()) for one in data.stored)


def _heaviest(sweep: config.Sweep) -> config.Train:
    values: dict[str, config.Scalar] = {}
    for key, choices in sweep.search.space.items():
        if isinstance(choices, list):
            numbers = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)
            values[key] = max(choices) if numbers else choices[0]
        else:
            values[key] = int(choices.high) if config.is_whole(key) else choices.high
    return config.trial_settings(sweep, values)


def _seconds_per_text(model: encoder.Encoder, texts: Sequence[str], side: encoder.Side) -> float:
    sample = list(texts[:: max(1, len(texts) // PROBE_TEXTS)])[:PROBE_TEXTS]
    model.encode(sample[:8], side)  # the first call is slow
    started = time.perf_counter()
    model.encode(sample, side)
    return (time.perf_counter() - started) / len(sample)


def _seconds_per_step(model: encoder.Encoder, data: embedded_data.Data, settings: config.Train) -> float:
    """Time a training step. The passages' embeddings are random, which does not change the time."""
    passages = torch.nn.functional.normalize(torch.randn(len(data.train.passages), model.dimension), dim=-1)
    train = data.train
    if train.pairs and data.negatives:  # whose negatives are not mined yet; any passages take as long
        train = dataclasses.replace(train, negative=train.positive[::-1].copy())
    prepared = trial.TrainingData.prepare(train, passages, model)
    probe = dataclasses.replace(
        settings, steps=2 * PROBE_STEPS, epochs=None, evaluations=2, mixed_precision="no", learning_rate=1e-9
    )
    *_, last = trial.run(model, prepared, probe, Benchmark([]).measure, seed=0)
    if "time/seconds_per_step" not in last.metrics:
        raise errors.ResourceError(f"a probe of a few training steps failed: {last.reason}")
    return last.metrics["time/seconds_per_step"]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
