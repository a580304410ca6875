"""Finds the pocket world on this machine, makes it on first use, and reads sweep files that use it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from adiabatic_ray import config, storage, sweep_file

VARIABLE = "ADIABATIC_POCKET"


def location() -> Path:
    """The folder of this version of the pocket world.

    The environment variable ADIABATIC_POCKET names it. Otherwise it lies in the cache of ADIABATIC_STORAGE, which all
    nodes of a cluster share, if that is a folder, or else in the user's own cache.
    """
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    shared = os.environ.get("ADIABATIC_STORAGE")
    if shared and not storage.is_remote(shared):
        return Path(shared) / "cache" / f"pocket-{_version()}"
    return storage.own_folder() / f"pocket-{_version()}"


def make() -> Iterator[tuple[int, int]]:
    """Make the pocket world if it is missing. Yields (step, number of steps) while its encoder is trained.

    The folder gets its name when it is complete. If another process makes it at the same time, this one waits.
    """
    folder = location()
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return
        from adiabatic_ray.pocket import pretraining, world  # torch and transformers take seconds to import

        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        world.write(partial)
        yield from pretraining.train(partial / "encoder")
        partial.rename(folder)


def load(file: Path, on_step: Callable[[int, int], None] | None = None) -> config.Sweep:
    """Read a sweep file that will run on this machine. If the file uses the pocket world, make that first.

    `on_step` is called with each step of its encoder's training and the number of steps.

    Raises:
        ConfigError: the file cannot be used.
    """
    if file.is_file() and f"${{{VARIABLE}}}" in file.read_text(encoding="utf-8", errors="replace"):
        for step, steps in make():
            if on_step is not None:
                on_step(step, steps)
    return read(file)


def read(file: Path) -> config.Sweep:
    """Read a sweep file that will not run on this machine: the pocket world's folder is named, but not made.

    Raises:
        ConfigError: the file cannot be used.
    """
    return sweep_file.load(file, {VARIABLE: str(location())})


def _version() -> str:
    """A digest of what the pocket world is made from, so that each version has a folder of its own."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in ("lexicon.tsv", "world.py", "pretraining.py"):
        digest.update((here / name).read_bytes())
    return digest.hexdigest()[:10]
