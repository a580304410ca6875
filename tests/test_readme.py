"""What the README says runs: its Python example, and the tests and sweep files that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def example() -> str:
    """The block of Python below its mark."""
    block = re.search(r"<!-- python example -->\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None, "README.md has no Python block below `<!-- python example -->`"
    return block[1]


def test_the_files_that_it_names_exist() -> None:
    named = set(re.findall(r"\b(?:tests|sweeps|k8s|adiabatic_ray)/[\w./-]*\w", (ROOT / "README.md").read_text()))
    written = {"sweeps/my.yaml"}  # an example
    assert len(named) > 15
    assert [name for name in sorted(named - written) if not (ROOT / name).exists()] == []


def test_the_benchmarks_that_it_names_exist() -> None:
    named = set(re.findall(r"-m tests\.benchmarks\.(\w+)", (ROOT / "README.md").read_text()))
    assert len(named) >= 6
    assert [name for name in named if not (ROOT / "tests" / "benchmarks" / f"{name}.py").exists()] == []


@pytest.mark.slow
@pytest.mark.usefixtures("pocket")
def test_the_python_example_runs(tmp_path: Path) -> None:
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", example()], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ \d+\.\d+$", done.stdout, re.MULTILINE), "no best trial was printed"
    assert re.search(r"^\s*trial +standing +gain", done.stdout, re.MULTILINE)
    assert re.search(r"query_encoder +questions +pnd", done.stdout), done.stdout
    assert (tmp_path / "runs" / "quickstart" / "report.html").exists()
