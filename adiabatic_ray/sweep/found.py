"""Finding a sweep that was run before, from what a user calls it: its folder or its file."""

from __future__ import annotations

from pathlib import Path

from adiabatic_ray import config, errors, storage, sweep_file
from adiabatic_ray.pocket import folder as pocket_folder
from adiabatic_ray.report.ledger import Ledger, exists


def find(where: str) -> Ledger:
    """The ledger of a sweep, given by its folder (which holds `sweep.json`) or by its sweep file.

    Raises:
        SweepError: there is no such sweep, or its `sweep.json` cannot be read.
        ConfigError: the sweep file cannot be used.
    """
    if storage.is_remote(where):
        return _in(storage.folder(where), where)
    path = Path(where).expanduser()
    if path.is_file() and path.name == "sweep.json":
        path = path.parent
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        sweep = read(path)
        root = storage.folder(sweep.storage)
        if not exists(root / sweep.name):
            raise errors.SweepError(
                f"{where}: this sweep has not been run: there is no {root / sweep.name / 'sweep.json'}. "
                f"Run it first: adiabatic-ray sweep {where}.{_others(sweep.name, root)}"
            )
        return Ledger(root / sweep.name)
    return _in(path.resolve(), where)


def _in(folder: Path, where: str) -> Ledger:
    """The ledger in a folder."""
    if exists(folder):
        return Ledger(folder)
    root = folder.parent if any(_names(folder.parent)) else storage.folder(config.default_storage())
    raise errors.SweepError(
        f"{where} is no sweep: it is neither a folder that holds `sweep.json` nor a sweep file (FILE.yaml)."
        + _others(folder.name, root)
    )


def read(file: Path) -> config.Sweep:
    """A sweep file that is not to be run here: the pocket world is named, and not made."""
    return sweep_file.load(file, {pocket_folder.VARIABLE: str(pocket_folder.location())})


def _names(root: Path) -> list[str]:
    """The names of the sweeps in a storage folder."""
    return [file.parent.name for file in storage.found(root, "*/sweep.json")]


def _others(name: str, root: Path) -> str:
    """A sentence on the sweeps that are there instead."""
    names = _names(root)
    if not names:
        return f" {root} holds no sweeps."
    return f" {root} holds {config.listed(names)}{config.nearest(name, names)}."
