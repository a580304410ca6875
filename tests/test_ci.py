"""The README, .ci/run, pre-commit and CONTRIBUTING.md agree on the test command, the linters and the files."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MARK = "<!-- test command -->"
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = README.split(f"{MARK}\n```bash\n")[1].split("\n")[0]
LINTERS = [
    line
    for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    if line.startswith(".venv/bin/") and not line.startswith(".venv/bin/pytest")
]


def checkout(folder: Path, readme: str) -> Path:
    """A folder with .ci and a README."""
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder


def execute(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """The output and the exit status of a command that ends within a minute."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def extract(root: Path) -> subprocess.CompletedProcess[str]:
    """What .ci/test_command.py prints in a checkout."""
    return execute([sys.executable, root / ".ci" / "test_command.py"])


def test_the_readme_has_the_test_command() -> None:
    done = extract(ROOT)
    assert (done.returncode, done.stdout) == (0, f"{COMMAND}\n")
    assert shlex.split(COMMAND)[-3:] == [".venv/bin/pytest", "-n", "2"]
    assert ".[test]" in shlex.split(COMMAND)


def test_headings_may_be_renamed(tmp_path: Path) -> None:
    renamed = README.replace("\n## ", "\n## Another ").replace("\nThe second line ", "\nAnother line ")
    assert renamed != README
    assert extract(checkout(tmp_path, renamed)).stdout == f"{COMMAND}\n"


BLOCK = f"{MARK}\n```bash\n{COMMAND}\n```\n"


@pytest.mark.parametrize(
    "instead",
    [
        pytest.param("", id="no mark and no block"),
        pytest.param(BLOCK.removeprefix(f"{MARK}\n"), id="no mark"),
        pytest.param(BLOCK.replace(MARK, "<!-- tests -->"), id="another mark"),
        pytest.param(f"{MARK}\n", id="no block"),
        pytest.param(f"{MARK}\n```bash\n```\n", id="an empty block"),
        pytest.param(f"{MARK}\n```bash\n\n```\n", id="an empty line"),
        pytest.param(BLOCK.replace(COMMAND, f"{COMMAND}\nmake more"), id="a second line"),
        pytest.param(BLOCK.replace(COMMAND, "make tests"), id="a line without pytest"),
        pytest.param(BLOCK.replace("```bash", "## Tests\n\n```bash"), id="a heading between mark and block"),
        pytest.param(f"{BLOCK}\n{BLOCK}", id="two marked blocks"),
    ],
)
def test_a_readme_without_a_test_command_ends_ci(instead: str, tmp_path: Path) -> None:
    assert README.count(BLOCK) == 1
    root = checkout(tmp_path, README.replace(BLOCK, instead))
    for done in (extract(root), execute([root / ".ci" / "run"])):
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith(f"error: README.md must have `{MARK}` once, and under it a bash block")


def test_ci_runs_the_line_of_the_readme_and_fails_with_it(tmp_path: Path) -> None:
    root = checkout(tmp_path, README.replace(COMMAND, "touch was-run && exit 7 # pytest"))
    done = execute([root / ".ci" / "run"])
    assert done.returncode == 7, done.stderr
    assert (root / "was-run").exists()


def test_the_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"(?<![\w/])(?:adiabatic_ray|tests)/[\w/.]*", text))
    assert len(paths) > 5
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_pre_commit_has_the_linters_of_ci() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"  # nothing is downloaded
    assert [hook["entry"] for hook in repository["hooks"]] == LINTERS
    assert not any(hook["pass_filenames"] for hook in repository["hooks"])  # all files, as in .ci/run
    assert {shlex.split(line)[0] for line in LINTERS} == {f".venv/bin/{name}" for name in ("ruff", "mypy", "deptry")}


@pytest.mark.parametrize(
    ("file", "module", "code"),
    [
        ("adiabatic_ray/errors.py", "nowhere", "DEP001"),
        ("adiabatic_ray/errors.py", "yarl", "DEP003"),  # aiohttp brings it
        ("adiabatic_ray/errors.py", "pytest", "DEP004"),
        ("tests/conftest.py", "nowhere", "DEP001"),
        ("tests/conftest.py", "yarl", "DEP003"),
    ],
)
def test_deptry_catches_an_import_that_is_not_declared(file: str, module: str, code: str, tmp_path: Path) -> None:
    path = tmp_path / file
    for folder in ("adiabatic_ray", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path.write_text(f"{path.read_text(encoding='utf-8')}\nimport {module}\n", encoding="utf-8")
    (line,) = (line for line in LINTERS if line.startswith(f".venv/bin/deptry {path.relative_to(tmp_path).parts[0]}"))
    command = [Path(sys.executable).with_name("deptry"), "--no-ansi", *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    (finding,) = (finding for finding in done.stderr.splitlines() if f"'{module}'" in finding)
    assert finding.startswith(f"{file}:")
    assert code in finding
