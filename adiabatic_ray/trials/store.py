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
from adiabatic_ray.trials.record import Candidate, Confirmation, Evaluation, ProfilePoint, TrialRecord

Decoded = TypeVar("Decoded")

VERSION = 2  # of the settings: before it, trials were judged by their whole displacements


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
        self.id, self._version, self._settings = _read(self.folder.settings, _decode_settings, way_out)
        for path in sorted(storage.found(folder, SweepFolder.TRIALS)):
            way_out = f"Delete {path.parent}; the same sweep command then runs this trial again"
            record = _read(path, _decode_record, way_out)
            self.records[record.number] = record

    @classmethod
    def create(cls, folder: Path, sweep: config.Sweep) -> TrialStore:
        """Create the store of a new sweep, in a folder that holds no sweep."""
        content = {"id": uuid.uuid4().hex[:12], "created": time.time(), "version": VERSION}
        content["settings"] = config.resolved(sweep)
        write_json(SweepFolder(folder).settings, content)
        return cls(folder)

    @functools.cached_property
    def sweep(self) -> config.Sweep:
        """The sweep's settings.

        Raises:
            ConfigError: another version stored settings that this one does not know.
        """
        return sweep_file.rebuild(self._settings, self.folder.settings)

    def continued(self, sweep: config.Sweep) -> config.Sweep:
        """A sweep with which this one is to go on, judged as the version that created the store judged its trials.

        A file that was written for an earlier version leaves the keys out that this version added.
        """
        if self._version >= VERSION:
            return sweep
        stored, search, evaluate = self.sweep, sweep.search, sweep.evaluate
        sampler = stored.search.sampler if search.sampler == "auto" else search.sampler
        return dataclasses.replace(
            sweep,
            search=dataclasses.replace(search, candidates="whole", sampler=sampler),
            evaluate=dataclasses.replace(evaluate, scales=evaluate.scales or stored.evaluate.scales),
        )

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

    def orders(self) -> list[dict[str, Any]]:
        """The orders in which candidates were tested so far. There are several if trials were added after a test."""
        content = storage.read(self.folder.guarantee)
        return json.loads(content)["rounds"] if content else []

    def put_order(self, order: dict[str, Any]) -> None:
        """Store the order in which candidates are going to be tested."""
        write_json(self.folder.guarantee, {"rounds": [*self.orders(), order]})

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


def _decode_settings(stored: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
    settings = stored["settings"]
    version = stored.get("version", 1)
    if version < VERSION:
        settings["search"].setdefault("candidates", "whole")
    return stored["id"], version, settings


def _decode_record(stored: dict[str, Any]) -> TrialRecord:
    earlier = stored.pop("confirmation", None)  # the key of versions that tested one candidate of a trial
    record = TrialRecord(
        **stored
        | {
            "points": tuple(Evaluation(**point) for point in stored["points"]),
            "scaled": tuple(Candidate(**candidate) for candidate in stored["scaled"]),
            "profile": tuple(ProfilePoint(**point) for point in stored.get("profile", ())),
            "confirmations": tuple(Confirmation(**one) for one in stored.get("confirmations", ())),
            "repeats": tuple(stored["repeats"]),
        }
    )
    return dataclasses.replace(record, confirmations=(_earlier(record, earlier),)) if earlier else record


def _earlier(record: TrialRecord, metrics: dict[str, float]) -> Confirmation:
    """The confirmation that an earlier version stored: of the feasible candidate with the largest scale."""
    feasible = [one for one in (*record.scaled, record.whole) if one.metrics["constraint"] <= 0]
    candidate = max(feasible, key=lambda one: one.scale)
    failure = f"its constraint there is {metrics['constraint']:+.2f} (feasible at 0 or below)"
    return Confirmation(candidate.scale, candidate.gain, metrics, failure if metrics["constraint"] > 0 else "")
