"""How similar a query and a passage are: what a system ranks by, as sentence-transformers defines it.

Cosines are dot products here, since an encoder that ranks by them gives embeddings of unit length. Distances count
negatively, so that more is always nearer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adiabatic_ray.config import Similarity


def pairwise(queries: Tensor, passages: Tensor, similarity: Similarity) -> Tensor:
    """The similarity `[...]` of each query with its passage, `[..., d]` both."""
    if similarity in ("cosine", "dot"):
        return (queries * passages).sum(-1)
    distances: Tensor = torch.linalg.vector_norm(queries - passages, ord=_order(similarity), dim=-1)
    return -distances


def all_pairs(queries: Tensor, passages: Tensor, similarity: Similarity) -> Tensor:
    """The similarity `[..., b, n]` of each query `[..., b, d]` with each passage `[..., n, d]`."""
    if similarity in ("cosine", "dot"):
        return queries @ passages.mT
    # Distances from products would lose what is near.
    return -torch.cdist(queries, passages, p=_order(similarity), compute_mode="donot_use_mm_for_euclid_dist")


def as_products(passages: Tensor, similarity: Similarity) -> Tensor:
    """Passages `[n, d]` as vectors whose dot products with `as_factors` rank as the similarity does, but for manhattan.

    Of Euclidean distances `q . p - |p|^2 / 2` is one, which has another dimension.
    """
    if similarity != "euclidean":
        return passages
    return torch.cat([passages, passages.square().sum(-1, keepdim=True) / -2], dim=-1)


def as_factors(queries: Tensor, similarity: Similarity) -> Tensor:
    """Queries `[n, d]` for `as_products`."""
    return torch.nn.functional.pad(queries, (0, 1), value=1.0) if similarity == "euclidean" else queries


def _order(similarity: Similarity) -> float:
    return 2.0 if similarity == "euclidean" else 1.0
