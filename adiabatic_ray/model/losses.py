"""Losses as pure functions of embeddings.

Hyper-parameters come as tensors, so that the same maths can run for many trials in one step.
"""

from __future__ import annotations

import torch
from torch import Tensor


def triplet_margin(query: Tensor, positive: Tensor, negative: Tensor, margin: Tensor) -> Tensor:
    """Mean of `max(0, margin - cos(q, p) + cos(q, n))` over unit-length embeddings `[b, d]`.

    Source: Vasilyev et al. 2024; the margin is on cosines.
    """
    return torch.relu(margin - (query * positive).sum(-1) + (query * negative).sum(-1)).mean()


def margin_mse(query: Tensor, positive: Tensor, negative: Tensor, margins: Tensor) -> Tensor:
    """Mean of `(q . p - q . n - m)^2` over embeddings `[b, d]` and a teacher's margins `[b]`, for distillation.

    Source: Hofstaetter et al. 2020; sentence-transformers' MarginMSELoss.
    """
    return torch.nn.functional.mse_loss((query * positive).sum(-1) - (query * negative).sum(-1), margins)


def infonce(query: Tensor, positive: Tensor, negative: Tensor, temperature: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy of each query's positive among all positives and negatives of the batch, on cosines.

    This is sentence-transformers' MultipleNegativesRankingLoss with one hard negative, whose `scale` is
    `1 / temperature`. `same[i, j]` (bool, `[b, 2b]`) says whether passage `j` is the same as the positive of query `i`;
    such a passage is not used as a negative. Of pairs, `negative` is `[0, d]` and `same` `[b, b]`.

    Source: van den Oord et al. 2018; Henderson et al. 2017.
    """
    scores = query @ torch.cat([positive, negative]).T / temperature
    target = torch.arange(len(query), device=query.device)
    other_copies = same & ~torch.eye(*same.shape, dtype=torch.bool, device=same.device)
    return torch.nn.functional.cross_entropy(scores.masked_fill(other_copies, float("-inf")), target)
