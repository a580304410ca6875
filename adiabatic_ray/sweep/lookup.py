"""Finds the store of a sweep by the sweep's folder or file."""

from __future__ import annotations

from pathlib import Path

from adiabatic_ray import config, errors, storage
from adiabatic_ray.pocket import folder as pocket_folder
from adiabatic_ray.trials.layout import StorageFolder, SweepFolder
from adiabatic_ray.trials.store import TrialStore, exists


def find(where: str) -> TrialStore:
    """The store of a sweep, given by its folder (which holds `sweep.json`) or by its sweep file.

    Raises:
        SweepError: there is no such sweep, or its `sweep.json` cannot be read.
        ConfigError: the sweep file cannot be used.
    """
    if storage.is_remote(where):
        return _in(storage.folder(where), where)
    path = Path(where).expanduser()
    if path.is_file() and path == SweepFolder(path.parent).settings:
        path = path.parent
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        sweep = pocket_folder.read(path)
        root = StorageFolder.at(sweep.storage)
        folder = root.sweep(sweep.name)
        if not exists(folder.path):
            raise errors.SweepError(
                f"{where}: this sweep has not been run: there is no {folder.settings}. "
                f"Run it first: adiabatic-ray sweep {where}.{_others(sweep.name, root)}"
            )
        return TrialStore(folder.path)
    return _in(path.resolve(), where)


def _in(folder: Path, where: str) -> TrialStore:
    """The store in a folder. `where` is what the user called it, for the error."""
    if exists(folder):
        return TrialStore(folder)
    root = SweepFolder(folder).storage
    if not _names(root):
        root = StorageFolder.at(config.default_storage())
    raise errors.SweepError(
        f"{where} is no sweep: it is neither a folder that holds `sweep.json` nor a sweep file (FILE.yaml)."
        + _others(folder.name, root)
    )


def _names(root: StorageFolder) -> list[str]:
    """The names of the sweeps in a storage folder."""
    return [settings.parent.name for settings in storage.found(root.path, StorageFolder.SWEEPS)]


def _others(name: str, root: StorageFolder) -> str:
    """A sentence that lists the sweeps in a storage folder, and the name that is nearest to `name`."""
    names = _names(root)
    if not names:
        return f" {root.path} holds no sweeps."
    return f" {root.path} holds {config.listed(names)}{config.nearest(name, names)}."
