"""Loads encoders in Ray's processes, and embeds many texts on all nodes of a cluster at once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow
import ray
import ray.data
import torch
from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.data import cache
from adiabatic_ray.evaluate.embedded_data import Embed, Texts
from adiabatic_ray.model import encoder
from adiabatic_ray.sweep.cluster import gpu_memory
from adiabatic_ray.sweep.cluster.resources import Plan

for _name in ("ray.data", "ray.data._internal"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def load(model: config.Model) -> encoder.Encoder:
    """The encoder on the GPU that Ray assigned to this process, or else on the assigned CPUs. It is loaded once.

    Raises:
        ResourceError: a share of a GPU is not free, or too small for the encoder.
    """
    threads, on_gpu = assigned()
    # An earlier task of this process may have set another number of threads.
    torch.set_num_threads(threads)
    return _loaded(model, on_gpu)


@functools.lru_cache(maxsize=1)
def _loaded(model: config.Model, on_gpu: bool) -> encoder.Encoder:
    if not on_gpu:
        return encoder.load(model, "cpu", compare=False)
    share = ray.get_runtime_context().get_assigned_resources()["GPU"]
    if share < 1:
        gpu_memory.take(share)
    try:
        return encoder.load(model, "cuda", compare=False)
    except torch.OutOfMemoryError as error:
        raise errors.ResourceError(f"{errors.summary(error)}{gpu_memory.advice(share)}") from None


def assigned(workers: int = 1) -> tuple[int, bool]:
    """What Ray assigned to this process, divided among `workers`: the threads of each, and whether each has a GPU."""
    resources = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(resources.get("CPU", 1) / workers)), resources.get("GPU", 0) > 0 and torch.cuda.is_available()


def on_cluster(model: config.Model, plan: Plan) -> Embed:
    """A function that embeds texts with Ray Data, in as many processes as the workers of all trials that fit.

    Each process has the resources of a trial's worker. Texts and embeddings travel through Ray's object store, some
    thousand rows at a time. So no process holds more embeddings than that, and the nodes need no common disk.
    """
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=plan.fitting * plan.workers)
    share = {"num_cpus": plan.cpus / plan.workers, "num_gpus": plan.gpus / plan.workers}

    def embed(texts: Sequence[Texts]) -> Iterator[tuple[int, Tensor]]:
        # A row holds a whole chunk, so that a process gets as many texts at once. Each row goes to the object store by
        # itself, and Ray spills to disk what does not fit. So this process does not hold a second copy of all texts.
        rows = [
            ray.put(pyarrow.table({"side": [side], "texts": [list(chunk)]}))
            for side, own in texts
            for chunk in cache.chunks(own)
        ]
        tables = [position for position, (_, own) in enumerate(texts) for _ in cache.chunks(own)]
        if not rows:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        embedded = ray.data.from_arrow_refs(rows).map(_Embedder, fn_constructor_args=(model,), compute=pool, **share)
        try:
            for position, row in zip(tables, embedded.iter_rows(), strict=True):
                yield position, torch.tensor(row["embeddings"])
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise errors.SweepError(f"embedding failed on the cluster: {reason}") from error

    return embed


class _Embedder:
    def __init__(self, model: config.Model) -> None:
        self.encoder = load(model)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"embeddings": self.encoder.encode(list(row["texts"]), row["side"]).numpy()}
