"""Losses as pure functions of embeddings and of what a system ranks by, `s(query, passage)`.

Hyper-parameters come as tensors, so that the same maths can run for many trials in one step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adiabatic_ray.config import Similarity
from adiabatic_ray.model.similarity import all_pairs, pairwise


def triplet_margin(
    query: Tensor, positive: Tensor, negative: Tensor, margin: Tensor, similarity: Similarity = "cosine"
) -> Tensor:
    """Mean of `max(0, margin - s(q, p) + s(q, n))` over embeddings `[b, d]`.

    Source: Vasilyev et al. 2024, with cosines.
    """
    return torch.relu(margin - pairwise(query, positive, similarity) + pairwise(query, negative, similarity)).mean()


def margin_mse(
    query: Tensor, positive: Tensor, negative: Tensor, margins: Tensor, similarity: Similarity = "cosine"
) -> Tensor:
    """Mean of `(s(q, p) - s(q, n) - m)^2` over embeddings `[b, d]` and a teacher's margins `[b]`, for distillation.

    Source: Hofstaetter et al. 2020; sentence-transformers' MarginMSELoss.
    """
    lead = pairwise(query, positive, similarity) - pairwise(query, negative, similarity)
    return torch.nn.functional.mse_loss(lead, margins)


def infonce(
    query: Tensor,
    positive: Tensor,
    negative: Tensor,
    temperature: Tensor,
    unused: Tensor,
    similarity: Similarity = "cosine",
) -> Tensor:
    """Cross-entropy of each query's positive among all positives and negatives of the batch.

    This is sentence-transformers' MultipleNegativesRankingLoss, whose `scale` is `1 / temperature`. `negative` is
    `[n, d]`: those of all queries, none for pairs. `unused[i, j]` (bool, `[b, b + n]`) says which passages are not
    negatives of query `i`, such as copies of its positive; its positive itself is always used.

    Source: van den Oord et al. 2018; Henderson et al. 2017.
    """
    scores = all_pairs(query, torch.cat([positive, negative]), similarity) / temperature
    target = torch.arange(len(query), device=query.device)
    unused = unused & ~torch.eye(*unused.shape, dtype=torch.bool, device=unused.device)
    return torch.nn.functional.cross_entropy(scores.masked_fill(unused, float("-inf")), target)
