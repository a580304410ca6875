"""The commands of the README and of the guide, run in a new folder as a reader runs them, one after the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import GUIDE, README, ROOT, example

# One process runs them all, since they share the sweep of the quickstart.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reader")]

# What the guide's table leaves to its reader.
GIVEN = {
    "SWEEP ...": "runs/quickstart",
    "SWEEP": "runs/quickstart",
    "FILE": "sweeps/quickstart.yaml",
    "M [M ...]": "runs/quickstart/best/query_encoder",
    "[--against BASE]": "--against data/encoder",
    "--data DATA": "--data sweeps/quickstart.yaml:confirmation.xnli",
}
# These serve until they are stopped, or need a cluster's job server: they have tests of their own.
ELSEWHERE = {"ui", "submit", "stop", "logs"}


def succeed(folder: Path, command: str, **variables: str) -> str:
    """What a command line prints in a folder with the files of the project and with its environment."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment = own | {"PATH": programs, "PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pocket: Path) -> Path:
    """A new folder with the shipped sweep files, an environment, and the pocket world in the layout of real data."""
    made = tmp_path_factory.mktemp("reader")
    (made / "sweeps").symlink_to(ROOT / "sweeps")
    (made / ".venv").symlink_to(Path(sys.executable).parents[1])
    data = made / "data"
    for name in ("msmarco", "xnli/all_languages", "arxiv"):
        (data / name).mkdir(parents=True)
    (data / "encoder").symlink_to(pocket / "encoder")
    for source, target in (
        ("questions/train", "msmarco/train"),
        ("questions/selection", "msmarco/validation"),
        ("xnli/selection", "xnli/all_languages/validation"),
        ("xnli/confirmation", "xnli/all_languages/test"),
        ("titles/selection", "arxiv/test"),
    ):
        shutil.copy(pocket / f"{source}.jsonl", data / f"{target}.jsonl")
    (data / "xnli" / "README.md").write_text(
        "---\nconfigs: [{config_name: all_languages, data_dir: all_languages}]\n---\n"  # as on the hub
    )
    return made


@pytest.fixture(scope="module")
def quickstart(folder: Path) -> str:
    """What the README's first command prints, without the installation before it."""
    block = re.search(r"```bash\n(.*)\n```", README.read_text())
    assert block is not None
    *installation, command = block[1].split(" && ")
    assert len(installation) == 2
    return succeed(folder, command)


def test_the_quickstart(folder: Path, quickstart: str) -> None:
    assert "best: harms nobody, confirmed" in quickstart
    assert "guarantee: Shown on sets that no trial had seen, at an error rate of 5%" in quickstart
    for name in re.findall(r"^  ([\w./]+?)/? {2,}", README.read_text(), re.M):
        assert (folder / "runs" / "quickstart" / name).exists(), name


@pytest.mark.usefixtures("quickstart")
def test_the_python_examples(folder: Path) -> None:
    """They go on with the sweep of the quickstart."""
    printed = succeed(folder, 'python -c "$CODE"', CODE=example(README, "python"))
    assert re.search(r"^\d+ \d+\.\d+$", printed, re.M), "no best trial was printed"
    assert re.search(r"^\s*trial +standing +gain", printed, re.M)
    assert re.search(r"query_encoder +questions +pnd", printed), printed
    compared = """
import numpy, sentence_transformers
base = sentence_transformers.SentenceTransformer("data/encoder")
assert numpy.array_equal(documents, base.encode_document(["Anna planted it."]))
assert not numpy.array_equal(queries, base.encode_query(["who planted the tree?"]))
"""
    succeed(folder, 'python -c "$CODE"', CODE=example(README, "deployment") + compared)


TABLE = GUIDE.read_text().partition("| command | what it does |\n")[2].partition("\n\n")[0]
COMMANDS = [command for row in TABLE.splitlines()[1:] for command in re.findall(r"`(\w+ .+?)`", row.split(" | ")[0])]


@pytest.mark.usefixtures("quickstart")
@pytest.mark.parametrize("command", [one for one in COMMANDS if one.split()[0] not in ELSEWHERE])
def test_the_commands_of_the_guide(folder: Path, tmp_path: Path, command: str) -> None:
    for name, given in GIVEN.items():
        command = command.replace(name, given)
    for name in ("OUT", "DIR"):
        command = command.replace(name, str(tmp_path / "out"))
    succeed(folder, f"adiabatic-ray {command}")


def test_the_guides_sweep_on_data_of_ones_own(folder: Path) -> None:
    block = re.search(r"```bash\n(export .*?)```", GUIDE.read_text(), re.DOTALL)
    assert block is not None
    validated, _, swept = succeed(folder, block[1].replace("/path/to/data", "data")).partition("embedded ")
    assert "16 trials" in validated
    assert "best trials; " in swept
    assert (folder / "runs" / "real_data" / "report.html").exists()
