"""What a confirmation set can prove: estimated before a sweep starts, from a sample of the set."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray.data.sets import Rows, Triplets, Xnli
from adiabatic_ray.evaluate import discordance, guarantee
from adiabatic_ray.evaluate.evidence import Evidence
from adiabatic_ray.model.encoder import Encoder

TEXTS = 2000  # the most texts that a sample embeds
# How far the noise moves a query. In the pocket world a distance of 0.1 changes 5.5% as many outcomes as the untouched
# encoder gets wrong, and 0.2 changes 10.5%. Trials at their edges change 6 to 14% there.
MOVED, DRAWS = 0.15, 4


def smallest_margins(guard: Triplets | Xnli, model: Encoder, alpha: float, seed: int = 0) -> guarantee.Margins:
    """The smallest margins that an encoder passes with a probability of 80% if it changes nothing but noise.

    A sample of the set is embedded, and stands for all of it. The noise moves the queries' embeddings at random.
    """
    sample = _sample(guard)
    queries, passages = model.encode(sample.queries, "query"), model.encode(sample.passages, "passage")
    generator = torch.Generator().manual_seed(seed)
    moved = [guarantee.noisy(queries, MOVED, generator) for _ in range(DRAWS)]
    base, *noisy = (
        _enlarged(discordance.outcomes(discordance.leads(sample, one, passages)), len(guard))
        for one in (queries, *moved)
    )
    languages = guard.languages
    language = guard.language if isinstance(guard, Triplets) else None
    draws = [Evidence(base, one, languages, language) for one in noisy]
    return guarantee.smallest_margins(draws, alpha, seed=seed)


def _sample(guard: Triplets | Xnli) -> Triplets | Xnli:
    """The first premises or triplets of a set, as many as `TEXTS` allows, with their texts."""
    if isinstance(guard, Triplets):
        fields, texts = {"query": "queries", "positive": "passages", "negative": "passages"}, 3
    else:
        fields = {"premise": "queries"} | dict.fromkeys(("entailment", "neutral", "contradiction"), "passages")
        texts = 4 * len(guard.languages)
    kept = {name: getattr(guard, name)[: max(2, TEXTS // texts)] for name in fields}
    changes: dict[str, list[str] | Rows] = {}
    for side in ("queries", "passages"):
        names = [name for name in fields if fields[name] == side]
        rows, places = np.unique(np.stack([kept[name] for name in names]), return_inverse=True)
        changes[side] = [getattr(guard, side)[row] for row in rows]
        changes |= dict(zip(names, places.reshape(len(names), *kept[names[0]].shape), strict=True))
    return dataclasses.replace(guard, **changes)  # type: ignore[arg-type]


def _enlarged(outcomes: Tensor, n: int) -> Tensor:
    """The outcomes repeated up to `n` premises. A bootstrap of these draws `n` premises of the sample."""
    return outcomes.repeat(-(-n // len(outcomes)), *[1] * (outcomes.dim() - 1))[:n]
