"""Stores a sweep's settings and trials in the sweep's folder. A resume, a report and MLflow need nothing else."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from adiabatic_ray import config, errors, storage, sweep_file
from adiabatic_ray.trials.layout import SweepFolder
from adiabatic_ray.trials.record import Candidate, Evaluation, TrialRecord

Decoded = TypeVar("Decoded")


class TrialStore:
    """The trials of one sweep, in memory and in the sweep's folder.

    Raises:
        SweepError: the folder holds no sweep, or a file in it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = SweepFolder(folder)
        self.records: dict[int, TrialRecord] = {}
        if not exists(folder):
            raise errors.SweepError(f"{folder} holds no sweep: there is no `sweep.json`.")
        way_out = f"Restore it from a backup, or delete {folder}"
        self.id, self._settings = _read(self.folder.settings, _decode_settings, way_out)
        for path in sorted(storage.found(folder, SweepFolder.TRIALS)):
            way_out = f"Delete {path.parent}; the same sweep command then runs this trial again"
            record = _read(path, _decode_record, way_out)
            self.records[record.number] = record

    @classmethod
    def create(cls, folder: Path, sweep: config.Sweep) -> TrialStore:
        """Create the store of a new sweep, in a folder that holds no sweep."""
        content = {"id": uuid.uuid4().hex[:12], "created": time.time(), "settings": config.resolved(sweep)}
        write_json(SweepFolder(folder).settings, content)
        return cls(folder)

    @functools.cached_property
    def sweep(self) -> config.Sweep:
        """The sweep's settings.

        Raises:
            ConfigError: another version stored settings that this one does not know.
        """
        return sweep_file.rebuild(self._settings, self.folder.settings)

    def update_settings(self, sweep: config.Sweep) -> None:
        """Store the settings that the sweep goes on with, if they differ from the stored ones."""
        settings = config.resolved(sweep)
        if settings != self._settings:
            stored = json.loads(storage.read(self.folder.settings) or b"{}")
            write_json(self.folder.settings, stored | {"settings": settings})
            self._settings = settings
            self.__dict__.pop("sweep", None)

    def put(self, record: TrialRecord) -> None:
        """Store a record, in the folder first and then in memory."""
        write_json(self.folder.trial(record.number).record, dataclasses.asdict(record))
        self.records[record.number] = record

    def finished(self) -> list[TrialRecord]:
        """The records of all trials that have ended, in the order of their numbers."""
        return [record for _, record in sorted(self.records.items()) if record.state != "running"]


def exists(folder: Path) -> bool:
    """Whether a folder holds a sweep."""
    return storage.exists(SweepFolder(folder).settings)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, so that a kill leaves the old file or the new one."""
    storage.write(path, json.dumps(value, indent=1, default=dict))


def _read(path: Path, decode: Callable[[dict[str, Any]], Decoded], way_out: str) -> Decoded:
    """Read a file that `write_json` wrote. No kill leaves a part of it, so a file that cannot be read was damaged."""
    try:
        return decode(json.loads(storage.read(path) or b""))
    except (ValueError, KeyError, TypeError) as error:
        raise errors.SweepError(f"{path} is damaged ({errors.summary(error)}). {way_out}.") from None


def _decode_settings(stored: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return stored["id"], stored["settings"]


def _decode_record(stored: dict[str, Any]) -> TrialRecord:
    points = tuple(Evaluation(**point) for point in stored.pop("points"))
    scaled = tuple(Candidate(**candidate) for candidate in stored.pop("scaled"))
    return TrialRecord(**stored | {"repeats": tuple(stored["repeats"])}, points=points, scaled=scaled)
