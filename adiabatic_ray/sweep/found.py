"""Finding a sweep that was run before, from what a user calls it: its folder or its file."""

from __future__ import annotations

from pathlib import Path

from adiabatic_ray import config, errors, sweep_file
from adiabatic_ray.pocket import folder as pocket_folder
from adiabatic_ray.report.ledger import Ledger


def find(where: str) -> Ledger:
    """The ledger of a sweep, given by its folder (which holds `sweep.json`) or by its sweep file.

    Raises:
        SweepError: there is no such sweep, or its `sweep.json` cannot be read.
        ConfigError: the sweep file cannot be used.
    """
    path = Path(where).expanduser()
    if path.is_file() and path.name == "sweep.json":
        path = path.parent
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        sweep = read(path)
        storage = Path(sweep.storage).resolve()
        if not (storage / sweep.name / "sweep.json").exists():
            raise errors.SweepError(
                f"{where}: this sweep has not been run: there is no {storage / sweep.name / 'sweep.json'}. "
                f"Run it first: adiabatic-ray sweep {where}.{_others(sweep.name, storage)}"
            )
        return Ledger(storage / sweep.name)
    if not (path / "sweep.json").exists():
        storage = path.absolute().parent if any(_names(path.absolute().parent)) else Path(config.default_storage())
        raise errors.SweepError(
            f"{where} is no sweep: it is neither a folder that holds `sweep.json` nor a sweep file (FILE.yaml)."
            + _others(path.name, storage)
        )
    return Ledger(path.resolve())


def read(file: Path) -> config.Sweep:
    """A sweep file that is not to be run here: the pocket world is named, and not made."""
    return sweep_file.load(file, {pocket_folder.VARIABLE: str(pocket_folder.location())})


def _names(storage: Path) -> list[str]:
    """The names of the sweeps in a storage folder."""
    return sorted(found.parent.name for found in storage.glob("*/sweep.json"))


def _others(name: str, storage: Path) -> str:
    """A sentence on the sweeps that are there instead."""
    names = _names(storage)
    if not names:
        return f" {storage} holds no sweeps."
    return f" {storage} holds {config.listed(names)}{config.nearest(name, names)}."
