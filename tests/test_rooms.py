"""Rooms import downwards only, heavy libraries stay in their rooms, and the core runs without the sweep's libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import adiabatic_ray

ROOT = Path(adiabatic_ray.__file__).parent

ROWS = {
    "errors": 0,
    "config": 1,
    "storage": 1,
    "sweep_file": 2,
    "data": 3,
    "model": 3,
    "train": 4,
    "evaluate": 4,
    "report": 5,
    "pocket": 5,
    "sweep": 6,
    "cli": 7,
    "__main__": 8,
}
HEAVY = {
    "ray": {"sweep"},
    "optuna": {"sweep"},
    "mlflow": {"report"},
    "matplotlib": {"report"},
    "accelerate": {"train"},
    "datasets": {"data"},
    "transformers": {"model"},
    "sentence_transformers": {"model"},
}


def imports() -> Iterator[tuple[Path, str, str]]:
    """Every import in the package: (file, room, imported module), those inside functions too."""
    for path in ROOT.rglob("*.py"):
        relative = path.relative_to(ROOT)
        room = relative.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
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
        if not module.startswith("adiabatic_ray.") or room == "__init__":
            continue
        other = module.split(".")[1]
        if other in ROWS and other != room:
            seen += 1
            assert ROWS[other] < ROWS[room], f"{path} imports {module}, which does not lie below it"
    assert seen > 50  # the walk found the package


def test_heavy_libraries_stay_in_their_rooms() -> None:
    found = set()
    for path, room, module in imports():
        library = module.split(".")[0]
        if library in HEAVY:
            found.add(library)
            assert room in HEAVY[library], f"{path} imports {library}, which belongs to {HEAVY[library]}"
    assert found == set(HEAVY)


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
