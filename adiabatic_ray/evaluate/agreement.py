"""Whether stored embeddings are those of the untouched encoder, and what is the matter if they are not."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.data.sets import Rows, Stored
from adiabatic_ray.data.stored import Store
from adiabatic_ray.model.encoder import Encoder, load

SAMPLE = 200  # passages
EXPECTED, EXPECTED_OF_ROUNDED = 0.999, 0.98  # median cosines
LENGTH_TOLERANCE = 0.02  # of the median length, where lengths count
LENGTHS = (16, 32, 64, 128, 256, 384, 512, 1024, 2048, 4096, 8192)  # tokens, that people cut their passages to
SHIFTS = (-2, -1, 1, 2)  # rows


def measure(name: str, texts: Sequence[str], placed: Stored, store: Store, model: Encoder) -> float:
    """The median cosine between a sample of the stored embeddings and the encoder's own.

    Raises:
        DataError: it is too small, or the lengths differ where they count. The message names the cause if it is one of
            the usual ones.
    """
    chosen = _sample(placed.rows)
    some, rows = [texts[i] for i in chosen], placed.rows[chosen]
    stored = store.read(rows)
    own = model.encode(some, "passage")
    agreement = _agreement(own, stored, store)
    least = expected(store)
    if agreement < least:
        cause = _cause(model, some, own, rows, stored, store)
        raise errors.DataError(
            f"{name}: the embeddings in {store.source.path} are not those of this encoder: the median cosine of "
            f"{len(chosen)} passages is {agreement:.4f}, and at least {least} is expected. {cause}"
        )
    if model.similarity != "cosine" and store.precision != "binary":
        length, theirs = (float(one.norm(dim=1).median()) for one in (own, stored))
        if abs(theirs / length - 1) > LENGTH_TOLERANCE:
            raise errors.DataError(
                f"{name}: the model ranks by {config.RANKED_BY[model.similarity]}, and its embeddings have a length of "
                f"{length:.3g}, but those in {store.source.path} have {theirs:.3g}: they were normalised, or scaled. "
                "If your system ranks by cosines, give `model.similarity: cosine`."
            )
    return agreement


def expected(store: Store) -> float:
    """The smallest median cosine of embeddings of this precision."""
    return EXPECTED if store.precision == "float32" else EXPECTED_OF_ROUNDED


def _sample(rows: Rows) -> Rows:
    there = np.flatnonzero(rows >= 0)
    return np.sort(np.random.default_rng(0).choice(there, min(SAMPLE, len(there)), replace=False))


def _agreement(own: Tensor, stored: Tensor, store: Store) -> float:
    """The median cosine of the pairs of rows."""
    return float(torch.nn.functional.cosine_similarity(_as_stored(own, store), stored, dim=1).median())


def _as_stored(own: Tensor, store: Store) -> Tensor:
    """The encoder's own embeddings, or their bits where bits are stored."""
    return (own > 0).float() * 2 - 1 if store.precision == "binary" else own


def _cause(model: Encoder, texts: Sequence[str], own: Tensor, rows: Rows, stored: Tensor, store: Store) -> str:
    """The first of the usual causes with which the embeddings agree, and the way out."""
    least = expected(store)
    for shift in SHIFTS:
        there = (rows + shift >= 0) & (rows + shift < store.count)
        moved = store.read(rows[there] + shift)
        if len(moved) and _agreement(own[torch.from_numpy(there)], moved, store) >= least:
            return (
                f"They agree when each passage is {abs(shift)} row{'s' if abs(shift) > 1 else ''} "
                f"{'later' if shift > 0 else 'earlier'}: the rows are shifted, such as by a header that became one."
            )
    nearest = torch.nn.functional.normalize(_as_stored(own, store)) @ torch.nn.functional.normalize(stored).T
    if float(nearest.max(dim=1).values.median()) >= least:
        return "They agree in another order: give `embeddings.ids`, a file with the passage's id for each row."
    for varied, cause in _variants(model):
        if _agreement(varied.encode(texts, "passage"), stored, store) >= least:
            return f"They agree {cause}"
    return (
        "No other prompt, maximum length, pooling or order of the rows explains it, so another model or another "
        "revision made them: `model.name` and `model.revision` must name that one. Without `embeddings` the passages "
        "are embedded by this one."
    )


def _variants(model: Encoder) -> Iterator[tuple[Encoder, str]]:
    """Encoders that differ in one setting, and how to say so and to get it."""
    prompts = ["", *model.module.prompts.values(), "passage: ", "query: ", model.prompts["query"]]
    for prompt in dict.fromkeys(one for one in prompts if one != model.prompts["passage"]):
        varied = copy.copy(model)
        varied.prompts = {**model.prompts, "passage": prompt}
        yield varied, f"with the prompt {prompt!r}: give `model.prompts.passage: {prompt!r}`."
    for length in LENGTHS:
        if length < model.max_length["passage"]:
            varied = copy.copy(model)
            varied.max_length = {**model.max_length, "passage": length}
            yield varied, f"when passages are cut after {length} tokens: give `model.max_length.passage: {length}`."
    for mode in ("mean", "cls", "max", "lasttoken"):
        try:
            other = load(dataclasses.replace(model.settings, pooling=mode), model.device, compare=False)
        except errors.ModelError:
            return  # it has no pooling that could be another
        yield other, f"with another pooling: give `model.pooling: {mode}`."
