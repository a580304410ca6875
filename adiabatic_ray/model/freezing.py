"""Freezing masks: a small language of patterns on parameter names.

A mask is one or more patterns joined with `+`; a parameter that any of them matches is frozen. `none` freezes nothing.

A pattern is a sequence of the dot-separated parts of a name, anywhere in the name: `embeddings` matches the whole
embedding block, `layer.0` the first layer (and not `layer.10`), and `LayerNorm.weight` that weight of every LayerNorm.
A part may be

- a glob: `*.bias`, `layer.*.output.dense.weight`. A `*` matches within one part.
- a range of numbers: `layer.0-5`.

A pattern may match more than it seems to. In BERT, `output.dense.weight` matches the feed-forward output *and* the
attention output. `layer.*.output.dense.weight` matches the feed-forward output alone, and
`attention.output.dense.weight` matches the attention output alone.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from adiabatic_ray import errors


def matches(mask: str, names: Iterable[str]) -> dict[str, list[str]]:
    """The names that each pattern of a mask matches, by pattern. Empty for the mask `none`.

    Raises:
        MaskError: a pattern is empty or matches nothing, or the mask leaves nothing to train.
    """
    names = list(names)
    patterns = [pattern.strip() for pattern in mask.split("+")]
    if patterns == ["none"]:
        return {}
    matched = {pattern: [name for name in names if _matches(pattern, name)] for pattern in patterns}
    for pattern, hits in matched.items():
        if not pattern or "none" in patterns:
            raise errors.MaskError(f"freeze: {mask!r} is not a mask; expected `none` or patterns joined with `+`.")
        if not hits:
            raise errors.MaskError(
                f"freeze: the pattern `{pattern}` of {mask!r} matches no parameter. Names look like "
                + ", ".join(f"`{name}`" for name in _examples(names))
                + "."
            )
    if len({name for hits in matched.values() for name in hits}) == len(names):
        raise errors.MaskError(f"freeze: {mask!r} freezes every parameter, so that nothing is left to train.")
    return matched


def trainable(mask: str, names: Iterable[str]) -> list[str]:
    """The names that a mask leaves to train, in the order given.

    Raises:
        MaskError: as `matches`.
    """
    names = list(names)
    frozen = {name for hits in matches(mask, names).values() for name in hits}
    return [name for name in names if name not in frozen]


def _matches(pattern: str, name: str) -> bool:
    wanted, parts = pattern.split("."), name.split(".")
    return any(
        all(_part_matches(w, p) for w, p in zip(wanted, parts[start:], strict=False))
        for start in range(len(parts) - len(wanted) + 1)
    )


def _part_matches(wanted: str, part: str) -> bool:
    interval = re.fullmatch(r"(\d+)-(\d+)", wanted)
    if interval:
        return part.isdigit() and int(interval[1]) <= int(part) <= int(interval[2])
    return fnmatch.fnmatchcase(part, wanted)


def _examples(names: Sequence[str]) -> list[str]:
    """A few different names for a message: the first of each depth."""
    by_depth = {name.count("."): name for name in reversed(names)}
    return [by_depth[depth] for depth in sorted(by_depth)]
