"""Synthetic outcomes of a known effect."""

from __future__ import annotations

import torch
from torch import Tensor

from adiabatic_ray import config

SETTINGS = config.Constraint(data="xnli")
LANGUAGES = 5
NAMES = [f"l{i}" for i in range(LANGUAGES)]


def paired(n: int, generator: torch.Generator, fixed: float, broken: float) -> tuple[Tensor, Tensor]:
    """Outcomes of `n` triplets: 30% discordant, of which `fixed` are fixed; of the others `broken` are broken."""
    base = torch.rand(n, generator=generator) < 0.3
    chance = torch.rand(n, generator=generator)
    return base, torch.where(base, chance >= fixed, chance < broken)


def pairs(n: int, seed: int, harm: float = 0.0) -> tuple[Tensor, Tensor]:
    """XNLI-like outcomes `[n, 2, L, L]` whose premises differ in how hard they are; `harm` is added everywhere."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 2, LANGUAGES, LANGUAGES)
    hard = torch.rand(n, 1, 1, 1, generator=generator)
    base = torch.rand(shape, generator=generator) < hard
    chance, moved = torch.rand(shape, generator=generator), torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    tuned = torch.where(base, chance >= 0.06 * moved, chance < (0.03 + harm) * moved)
    return base, tuned
