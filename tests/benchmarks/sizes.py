"""How large functions and files of the package are: `python -m tests.benchmarks.sizes`.

A function's size is the lines of its body, without its docstring. The limits are CONTRIBUTING's.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import adiabatic_ray

ROOT = Path(adiabatic_ray.__file__).parent


def functions() -> Iterator[tuple[int, str]]:
    """Lines and name of each function."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                yield lines, f"{path.relative_to(ROOT)}:{node.name}"


def files() -> Iterator[tuple[int, str]]:
    """Lines and name of each file."""
    for path in ROOT.rglob("*.py"):
        yield len(path.read_text().splitlines()), str(path.relative_to(ROOT))


def main() -> None:
    for name, sizes in (("functions", sorted(functions())), ("files", sorted(files()))):
        lines = [size for size, _ in sizes]
        ninth = statistics.quantiles(lines, n=10, method="inclusive")[-1]
        print(
            f"{len(lines)} {name}: median {statistics.median(lines):g} lines, 90th percentile {ninth:g}, "
            f"largest {lines[-1]} ({sizes[-1][1]})"
        )


if __name__ == "__main__":
    main()
