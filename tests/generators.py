"""Generators that yield their progress and return their result."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


def drain(generator: Generator[Any, None, Result]) -> tuple[list[Any], Result]:
    """All that a generator yields, and what it returns."""
    yielded = []
    while True:
        try:
            yielded.append(next(generator))
        except StopIteration as end:
            return yielded, end.value
