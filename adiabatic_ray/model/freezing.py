"""Freezing masks: a small language of roles and of patterns on parameter names.

A mask is one or more of them joined with `+`; a parameter that any of them matches is frozen. `none` freezes nothing.

A role means the same in every architecture: `embeddings`, `attention`, `attention.output`, `feed_forward`,
`feed_forward.output`, `norms`, `biases`, `pooler`, `dense`, `layers.3`, `layers.0-5`. See `model.roles`.

Anything else is a pattern: a sequence of the dot-separated parts of a name, anywhere in the name. `word_embeddings`
matches that table, `layer.0` the first layer of BERT (and not `layer.10`), and `LayerNorm.weight` that weight of every
LayerNorm. A part may be

- a glob: `*.bias`, `layer.*.output.dense.weight`. A `*` matches within one part.
- a range of numbers: `layer.0-5`.

A pattern may match more than it seems to. In BERT, `output.dense.weight` matches the feed-forward output *and* the
attention output. `layer.*.output.dense.weight` matches the feed-forward output alone, and
`attention.output.dense.weight` matches the attention output alone.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from adiabatic_ray import errors

Roles = Mapping[str, Sequence[str]]  # the names of the parameters in each role


def matches(mask: str, names: Iterable[str], roles: Roles) -> dict[str, list[str]]:
    """The names that each role or pattern of a mask matches, by pattern. Empty for the mask `none`.

    Raises:
        MaskError: a pattern is empty or matches nothing, or the mask leaves nothing to train.
    """
    names = list(names)
    patterns = [pattern.strip() for pattern in mask.split("+")]
    if patterns == ["none"]:
        return {}
    matched = {pattern: _matched(pattern, names, roles) for pattern in patterns}
    for pattern, hits in matched.items():
        if not pattern or "none" in patterns:
            raise errors.MaskError(f"freeze: {mask!r} is not a mask; expected `none` or patterns joined with `+`.")
        if not hits:
            raise errors.MaskError(
                f"freeze: the pattern `{pattern}` of {mask!r} matches no parameter. Names look like "
                + ", ".join(f"`{name}`" for name in _examples(names))
                + (f"; roles are {', '.join(f'`{one}`' for one in _shown(roles))}." if roles else ".")
            )
    if len({name for hits in matched.values() for name in hits}) == len(names):
        raise errors.MaskError(
            f"freeze: {mask!r} freezes every parameter, so that nothing is left to train; `none` freezes nothing."
        )
    return matched


def trainable(mask: str, names: Iterable[str], roles: Roles) -> list[str]:
    """The names that a mask leaves to train, in the order given.

    Raises:
        MaskError: as `matches`.
    """
    names = list(names)
    frozen = {name for hits in matches(mask, names, roles).values() for name in hits}
    return [name for name in names if name not in frozen]


def _matched(pattern: str, names: Sequence[str], roles: Roles) -> list[str]:
    if pattern in roles:
        return list(roles[pattern])
    layers = re.fullmatch(r"layers\.(\d+)-(\d+)", pattern)
    if layers and "layers.0" in roles:
        chosen = range(int(layers[1]), int(layers[2]) + 1)
        return [name for number in chosen for name in roles.get(f"layers.{number}", ())]
    return [name for name in names if _matches(pattern, name)]


def _shown(roles: Roles) -> list[str]:
    """The roles for a message, with the layers as one range."""
    layers = [role for role in roles if role.startswith("layers.")]
    return [role for role in roles if role not in layers] + ([f"layers.0-{len(layers) - 1}"] if layers else [])


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
