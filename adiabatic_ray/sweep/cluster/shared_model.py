"""Copies a model from a local folder to where every node of a cluster can load it."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

from adiabatic_ray import config, storage
from adiabatic_ray.trials.layout import StorageFolder

LAST = "config.json"  # written last, so a copy that has it is complete


def for_all_nodes(sweep: config.Sweep) -> config.Sweep:
    """The sweep with a model that every node can load.

    If results go to an object store, the nodes may share no disk, so a model in a local folder is copied to the store.
    """
    name = sweep.model.name
    if not storage.is_remote(sweep.storage) or not Path(name).is_dir():
        return sweep
    shared = StorageFolder.at(sweep.storage).models / _digest(Path(name))
    if not storage.exists(shared / LAST):
        with storage.building(shared, last=LAST) as partial:
            shutil.copytree(name, partial, dirs_exist_ok=True)
    return dataclasses.replace(sweep, model=dataclasses.replace(sweep.model, name=str(shared)))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()[:32]
