"""What a sweep's terminal shows."""

from __future__ import annotations

import re

_OWN = re.compile(r"adiabatic[-_]ray|(?:\w+://|(?<!\S)/)\S*", re.IGNORECASE)  # our own name, addresses and paths
_RAY = re.compile(
    r"\bray\b|\bpid=\d|trial status|raylet|autoscaler|\b(?:INFO|WARNING|ERROR) \w+\.py:\d|\b\w+\.cc:\d",
    re.IGNORECASE,
)


def rays_lines(printed: str) -> list[str]:
    """The lines that are Ray's and not ours."""
    return [line for line in printed.splitlines() if _RAY.search(_OWN.sub("", line))]
