"""Where the pocket world lies on this machine, and making it there once."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from adiabatic_ray import storage

VARIABLE = "ADIABATIC_POCKET"


def location() -> Path:
    """The folder of this version of the world: given by the environment, or in a cache.

    The cache is the user's own, or on a cluster (see `config.default_storage`) the one that all nodes share.
    """
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    shared = os.environ.get("ADIABATIC_STORAGE")
    if shared and not storage.is_remote(shared):
        return Path(shared) / "cache" / f"pocket-{_version()}"
    return storage.own_folder() / f"pocket-{_version()}"


def make() -> Iterator[tuple[int, int]]:
    """Make the world where it is missing, yielding (step, steps) of its encoder's training; else yield nothing.

    It appears under its name when it is complete; another process that makes it at the same time is waited for.
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


def _version() -> str:
    """A digest of what the world is made from, so that another version is another folder."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in ("lexicon.tsv", "world.py", "pretraining.py"):
        digest.update((here / name).read_bytes())
    return digest.hexdigest()[:10]
