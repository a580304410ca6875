"""The exact search over frozen embeddings against FAISS's flat index, and against its floor.

    python -m tests.benchmarks.ranking_speed [--passages N] [--queries N] [--depth K]

By default a million passages of 384 dimensions and 7,000 queries. Both sides use all threads and get the same random
embeddings of unit length. The floor is the product of all queries with all passages, in the same blocks.
"""

from __future__ import annotations

import argparse
import resource
import time

import faiss
import numpy as np
import torch

from adiabatic_ray.data import sets
from adiabatic_ray.evaluate import ranking

DIMENSION = 384


def unit(count: int, seed: int) -> torch.Tensor:
    vectors = torch.empty(count, DIMENSION)
    generator = torch.Generator().manual_seed(seed)
    for block in vectors.split(100_000):  # in place: a copy of all would be what peak memory shows
        block.normal_(generator=generator)
        block /= block.norm(dim=1, keepdim=True)
    return vectors


def products(queries: torch.Tensor, passages: torch.Tensor) -> None:
    for block in queries.split(ranking.QUERIES_PER_BLOCK):
        for chunk in passages.split(ranking.PASSAGES_PER_CHUNK):
            block @ chunk.T


def peak() -> float:
    """The most memory that this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=7_000)
    parser.add_argument("--depth", type=int, default=1000)
    asked = parser.parse_args()
    passages, queries = unit(asked.passages, 0), unit(asked.queries, 1)
    count = len(queries)
    data = sets.Ranking(name="r", queries=[""] * count, passages=[], judgements=[], identical=np.full(count, -1))

    began = time.perf_counter()
    products(queries, passages)
    floor, before = time.perf_counter() - began, peak()
    began = time.perf_counter()
    ours = ranking.search(data, queries, passages, asked.depth)
    seconds, after = time.perf_counter() - began, peak()

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(passages.numpy())
    began = time.perf_counter()
    theirs = torch.from_numpy(index.search(queries.numpy(), asked.depth)[1])
    of_faiss = time.perf_counter() - began

    work = 2 * len(queries) * len(passages) * DIMENSION
    print(f"{len(passages):,} passages, {count:,} queries, depth {asked.depth}, {torch.get_num_threads()} threads")
    print(f"{work / 1e12:.2f} TFLOP, {passages.numel() * 4 / 2**30:.2f} GiB of passages")
    for name, one in (("products alone", floor), ("search", seconds), ("FAISS's flat index", of_faiss)):
        print(f"{name:20} {one:7.1f} s  {work / one / 1e9:6.0f} GFLOP/s  {of_faiss / one:5.2f} times as fast as FAISS")
    print(f"peak memory {after:.2f} GiB after the search, {before:.2f} GiB before it")
    same = float((ours == theirs).float().mean())
    order = [len(set(a) & set(b)) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
    print(f"rows in the same place {100 * same:.3f}%, found by both {100 * np.mean(order) / ours.shape[1]:.4f}%")


if __name__ == "__main__":
    main()
