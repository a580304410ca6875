"""All pairs of XNLI's languages, both comparisons: against encoding the texts of every pair.

Written plainly, each pair of languages has its premises and its three hypotheses encoded. Here each premise is encoded
once in each language, and the hypotheses come from the frozen table.
"""

from __future__ import annotations

import sys
import time

import torch

from adiabatic_ray import config
from adiabatic_ray.data import sets
from adiabatic_ray.evaluate import discordance, evidence
from adiabatic_ray.model import encoder
from tests.benchmarks import encoder_folder, premises


def pair_by_pair(model: encoder.Encoder, data: sets.Xnli) -> torch.Tensor:
    """Outcomes `[n, 2, L, L]`, each pair by itself."""
    languages = range(len(data.languages))
    outcomes = torch.empty(len(data), 2, len(languages), len(languages), dtype=torch.bool)
    for x in languages:
        for y in languages:
            premise = model.encode([data.queries[i] for i in data.premise[:, x]], "query")
            sides = {
                key: model.encode([data.passages[i] for i in getattr(data, key)[:, y]], "passage")
                for key in ("entailment", "neutral", "contradiction")
            }
            for c, comparison in enumerate(evidence.COMPARISONS):
                difference = sides["entailment"] - sides[comparison]
                outcomes[:, c, x, y] = (premise * difference).sum(-1) <= 0
    return outcomes


def main() -> None:
    data = premises(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    model = encoder.load(config.Model(name=str(encoder_folder())), encoder.default_device())
    table = model.encode(data.passages, "passage")  # in a sweep, read from the cache
    model.encode(data.queries[:50], "query")  # the first call is slow

    started = time.perf_counter()
    ours = discordance.outcomes(discordance.leads(data, model.encode(data.queries, "query"), table))
    our_seconds = time.perf_counter() - started
    started = time.perf_counter()
    plain = pair_by_pair(model, data)
    plain_seconds = time.perf_counter() - started

    pairs = len(data.languages) ** 2
    print(f"{len(data)} premises, {pairs} pairs of languages, 2 comparisons, {torch.get_num_threads()} threads")
    print(f"each pair's texts encoded: {plain_seconds:7.1f} s")
    print(f"each premise once:         {our_seconds:7.1f} s  {plain_seconds / our_seconds:5.1f} times as fast")
    print(f"outcomes that differ: {int((plain != ours).sum())} of {ours.numel()}")


if __name__ == "__main__":
    main()
