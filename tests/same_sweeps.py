"""Whether two runs of a sweep came to the same: every number of every trial but times, and every name in MLflow.

    python -m tests.same_sweeps BEFORE AFTER [--p-values REL]

BEFORE and AFTER are sweeps' folders, each beside its storage's `mlflow.db`. Prints what differs, and exits with 1 if
something does. With `--p-values 1e-9` p-values may differ by that much, relatively, as from another library.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TIMES = ("started", "finished", "time")
COSTS = ("time/", "system/")  # how metrics begin that no two runs have in common
FILES = ("outcomes.safetensors", "confirmation.safetensors", "displacement.safetensors")
NAMES = {
    "metrics": "select r.name, m.key from metrics m join runs r using (run_uuid)",
    "params": "select r.name, p.key from params p join runs r using (run_uuid)",
    "tags": "select r.name, t.key from tags t join runs r using (run_uuid)",
    "runs": "select name, status from runs",
    "experiments": "select name, lifecycle_stage from experiments",
    "inputs": "select name, dataset_source_type from datasets",
    "models": "select name, version from model_versions",
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text of a JSON value that is no time and no memory, by its place."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in TIMES and not str(key).startswith(COSTS):
                yield from leaves(inner, f"{path}.{key}")
    else:
        yield path, value


def trials(sweep: Path) -> dict[str, Any]:
    """What a sweep's folder holds of its trials, by its place."""
    content: dict[str, Any] = {}
    for record in sorted(sweep.glob("trials/*/trial.json")):
        content |= {f"{record.parent.name}{path}": leaf for path, leaf in leaves(json.loads(record.read_text()))}
        for name in FILES:
            file = record.with_name(name)
            if file.exists():
                content[f"{record.parent.name}/{name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return content


def tracked(sweep: Path) -> dict[str, Any]:
    """The names that a sweep has in MLflow, and how often each."""
    counts: dict[str, Any] = {}
    with sqlite3.connect(f"file:{sweep.parent / 'mlflow.db'}?mode=ro", uri=True) as store:
        for table, query in NAMES.items():
            for row in store.execute(query):
                place = f"mlflow {table} {' '.join(map(str, row))}"
                counts[place] = counts.get(place, 0) + 1
    return counts


def same(place: str, before: Any, after: Any, tolerance: float) -> bool:
    if tolerance and "p_value" in place and isinstance(before, float) and isinstance(after, float):
        return math.isclose(before, after, rel_tol=tolerance)
    return bool(before == after)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare two runs of a sweep.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--p-values", type=float, default=0.0, metavar="REL")
    options = parser.parse_args()
    before, after = (trials(sweep) | tracked(sweep) for sweep in (options.before, options.after))
    differing = [
        place
        for place in [*before, *(place for place in after if place not in before)]
        if place not in before or place not in after or not same(place, before[place], after[place], options.p_values)
    ]
    for place in differing:
        print(f"{place}: {before.get(place, 'absent')} -> {after.get(place, 'absent')}")
    print(f"{len(before)} values before, {len(after)} after, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
