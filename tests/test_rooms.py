"""Rooms import downwards only, heavy libraries stay in their rooms, and the core runs without the sweep's libraries."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import adiabatic_ray

ROOT = Path(adiabatic_ray.__file__).parent

# Each room imports from rows above it only, and from its own.
ROWS = [
    ["errors"],
    ["config", "storage"],
    ["schema", "sweep_file"],
    ["trials"],
    ["data", "model"],
    ["evaluate", "train"],
    ["pocket", "search", "tracking"],
    ["report"],
    ["sweep"],
    ["cli"],
    ["__main__"],
]
ROW = {room: number for number, rooms in enumerate(ROWS) for room in rooms}
HEAVY = {
    "ray": "sweep",
    "optuna": "search",
    "mlflow": "tracking",
    "matplotlib": "report",
    "vl_convert": "report",
    "accelerate": "train",
    "datasets": "data",
    "transformers": "model",
    "sentence_transformers": "model",
    "peft": "model",
}
PRIVATE_RAY = "sweep/cluster/ray_private.py"


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(*, types: bool = True) -> Iterator[tuple[Path, str, str]]:
    """Every import in the package: (file, room, imported module), those inside functions too.

    Without `types`, those that only a type checker sees are left out.
    """
    for path in ROOT.rglob("*.py"):
        relative = path.relative_to(ROOT)
        room = relative.parts[0].removesuffix(".py")
        tree = ast.parse(path.read_text())
        for_types = {inner for node in ast.walk(tree) if is_for_types(node) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if node in for_types and not types:
                continue
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield relative, room, alias.name
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{relative} has a relative import"
                assert node.module is not None
                for alias in node.names:
                    yield relative, room, f"{node.module}.{alias.name}"


def test_rooms_import_downwards() -> None:
    seen = 0
    for path, room, module in imports():
        if not module.startswith("adiabatic_ray.") or module == "adiabatic_ray.__version__" or room == "__init__":
            continue
        other = module.split(".")[1]
        if other != room:
            seen += 1
            assert ROW[other] < ROW[room], f"{path} imports {module}, which does not lie below it"
    assert seen > 50  # the walk found the package


def test_every_room_has_its_row() -> None:
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__pycache__"} == set(ROW)


def test_heavy_libraries_stay_in_their_rooms() -> None:
    found = set()
    for path, room, module in imports(types=False):
        library = module.split(".")[0]
        if library in HEAVY:
            found.add(library)
            assert room == HEAVY[library], f"{path} imports {library}, which belongs to {HEAVY[library]}"
    assert found == set(HEAVY)


def test_rays_private_functions_are_used_in_one_file() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if re.search(r"\bray\.(_private|autoscaler|core|util\.client)\b", path.read_text())
    }
    assert users == {PRIVATE_RAY}


def test_no_cycles_inside_a_room() -> None:
    edges: dict[str, set[str]] = {}
    for path, _, module in imports():
        if module.startswith("adiabatic_ray."):
            source = "adiabatic_ray." + ".".join(path.with_suffix("").parts)
            edges.setdefault(source, set()).add(module)
            edges[source].add(module.rpartition(".")[0])

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join([*trail, name])}"
        for following in edges.get(name, ()):
            if following in edges and following != name:
                visit(following, (*trail, name))

    for name in edges:
        visit(name, ())


def test_a_file_imports_a_module_or_names_from_it() -> None:
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        froms = [n for n in tree.body if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("adiabatic_ray")]
        imported = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        both = {node.module for node in froms} & imported
        assert not both, f"{path.relative_to(ROOT)} imports {both}, and names from it"


def test_core_runs_without_the_sweeps_libraries(pocket: Path) -> None:
    """Train and evaluate in a process that cannot import Ray, Optuna, MLflow or datasets."""
    program = f"""
import importlib.machinery, sys
hidden = ("ray", "optuna", "mlflow", "datasets", "pydantic", "ruamel", "matplotlib", "rich")
class Absent(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in hidden else super().find_spec(name, path, target)
    @classmethod
    def find_distributions(cls, *arguments):
        return (found for found in super().find_distributions(*arguments) if found.metadata["Name"] not in hidden)
sys.meta_path[:] = [Absent if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
import numpy as np
from adiabatic_ray import config
from adiabatic_ray.data import cache, sets
from adiabatic_ray.evaluate import benchmark
from adiabatic_ray.model import encoder, export
from adiabatic_ray.train import trial
model = encoder.load(config.Model(name={str(pocket / "encoder")!r}))
rows = np.arange(4)
texts = {{"queries": list("abcd"), "passages": list("efghijkl")}}
data = sets.Triplets(name="t", **texts, query=rows, positive=rows, negative=rows + 4)
prepared = trial.TrainingData.prepare(data, model.encode(data.passages, "passage"), model)
settings = config.Train(data=config.Source(path="none"), steps=2, evaluations=1, batch_size=2)
*_, last = trial.run(model, prepared, settings, benchmark.Benchmark([]).measure, seed=0)
print(last.status)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "complete", done.stderr
