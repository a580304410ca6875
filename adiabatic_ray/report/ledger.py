"""A sweep's folder: what was asked, what came back. It is all that a resume, a report or MLflow needs.

sweep.json                       the sweep's id and its resolved settings
trials/0007/trial.json           one trial's record, rewritten in one piece whenever it changes
trials/0007/discordance.csv      its counts against the untouched encoder, set by set
trials/0007/outcomes.safetensors      whether each triplet is discordant, on the selection sets and at each scale
trials/0007/confirmation.*            the same on the confirmation sets, of those that were confirmed
trials/0007/checkpoint.safetensors    from its last evaluation point before the end
trials/0007/displacement.safetensors  when it is done and among the best
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from adiabatic_ray import errors, storage

State = Literal["running", "complete", "stopped", "diverged", "out_of_memory", "crashed"]
FAILED_CONSTRAINT = 1000.0
OUTCOMES, CONFIRMATION = "outcomes.safetensors", "confirmation.safetensors"
Decoded = TypeVar("Decoded")
UNTOUCHED = 0  # the number of the untouched encoder, which is every sweep's first trial


@dataclass(frozen=True)
class Point:
    """One evaluation: the step, when it was reached (seconds since the epoch), and the metrics."""

    step: int
    time: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """What a trial can hand over: its displacement times `scale`, with the metrics and the worst pair there."""

    scale: float
    metrics: Mapping[str, float]
    worst: str

    @property
    def gain(self) -> float:
        return self.metrics["gain"]


@dataclass(frozen=True)
class Record:
    """One trial.

    `stopped` means ended early because it was harmful beyond doubt; a trial that diverged, ran out of memory or crashed
    has failed, and `reason` says how. `metrics` and `worst` are those of the whole displacement, `scaled` those of
    parts of it. `confirmation` is of the candidate, on the confirmation sets, and `repeats` of the configuration,
    trained again with other seeds.
    """

    number: int
    config: Mapping[str, Any]
    state: State = "running"
    reason: str = ""
    started: float = 0.0
    finished: float | None = None
    points: tuple[Point, ...] = ()
    worst: str = ""
    scaled: tuple[Candidate, ...] = ()
    confirmation: Mapping[str, float] = field(default_factory=dict)
    repeats: tuple[Mapping[str, float], ...] = ()

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics of the last evaluation."""
        return self.points[-1].metrics if self.points else {}

    @property
    def gain(self) -> float | None:
        return self.metrics.get("gain")

    @property
    def constraint(self) -> float | None:
        """Violation of the constraint at the last evaluation; a failed trial is infeasible whatever came before."""
        return FAILED_CONSTRAINT if self.failed else self.metrics.get("constraint")

    @property
    def failed(self) -> bool:
        return self.state in ("diverged", "out_of_memory", "crashed")

    @property
    def feasible(self) -> bool:
        """Whether the trial ran to its end and harmed no language."""
        return self.state == "complete" and self.constraint is not None and self.constraint <= 0

    @property
    def whole(self) -> Candidate:
        """The whole displacement, at scale 1, whether feasible or not."""
        return Candidate(1.0, self.metrics, self.worst)

    @functools.cached_property
    def candidate(self) -> Candidate | None:
        """The largest feasible part of the displacement; the whole of it where the trial is feasible."""
        if self.state != "complete":
            return None
        feasible = [candidate for candidate in (*self.scaled, self.whole) if candidate.metrics["constraint"] <= 0]
        return max(feasible, key=lambda candidate: candidate.scale, default=None)

    @property
    def confirmed(self) -> bool | None:
        """Whether the candidate is feasible on the confirmation sets too, and so are most of its repetitions.

        `None` where neither was tried.
        """
        return not self.refutation if self.confirmation or self.repeats else None

    @property
    def refutation(self) -> str:
        """What the confirmation sets showed against the candidate, in words; empty where nothing."""
        if self.confirmation and self.confirmation["constraint"] > 0:
            return f"its constraint there is {self.confirmation['constraint']:+.2f} (feasible at 0 or below)"
        if self.repeats and 2 * self.stayed <= len(self.repeats):
            return f"of its {len(self.repeats)} repetitions with other seeds only {self.stayed} stayed feasible there"
        return ""

    @property
    def stayed(self) -> int:
        """How many repetitions stayed feasible."""
        return sum(repeat["constraint"] <= 0 for repeat in self.repeats)

    @property
    def steadiness(self) -> tuple[float, float]:
        """The share of repetitions that stayed feasible, and their mean gain: what confirmed trials are ranked by."""
        if not self.repeats:
            return 0.0, 0.0
        return self.stayed / len(self.repeats), statistics.fmean(repeat["gain"] for repeat in self.repeats)

    @property
    def spread(self) -> float | None:
        """The standard deviation of the repetitions' gains; `None` where there are not two."""
        return statistics.stdev(repeat["gain"] for repeat in self.repeats) if len(self.repeats) > 1 else None

    def ended(self, state: State, reason: str = "") -> Record:
        return dataclasses.replace(self, state=state, reason=reason, finished=time.time())


def ranked(records: Iterable[Record]) -> list[Record]:
    """Trials from best to worst: by the gain of their candidates, then the others by how far they are from feasible."""

    def key(record: Record) -> tuple[bool, bool, float, int]:
        unmeasured = record.constraint is None
        worth = -record.candidate.gain if record.candidate else (record.constraint or 0.0)
        return record.candidate is None, unmeasured, worth, record.number

    return sorted(records, key=key)


def best(records: Iterable[Record]) -> Record | None:
    """The trial whose candidate has the largest gain; once some were confirmed, of those that stayed feasible then.

    Once some were repeated with other seeds, it is the one of them that stayed feasible most often, not the luckiest.
    """
    left = contenders(records)
    if any(record.confirmed is not None for record in left):
        left = [record for record in left if record.confirmed]
    if any(record.repeats for record in left):
        left = sorted((record for record in left if record.repeats), key=lambda r: r.steadiness, reverse=True)
    return left[0] if left else None


def contenders(records: Iterable[Record]) -> list[Record]:
    """Trials that have something to hand over, from best to worst: feasible, and better than the untouched encoder.

    The untouched encoder is not among them: it is what the others are measured against.
    """
    return ranked(r for r in records if r.candidate and r.candidate.gain > 0 and r.number != UNTOUCHED)


def exists(folder: Path) -> bool:
    """Whether a folder holds a sweep."""
    return storage.exists(folder / "sweep.json")


class Ledger:
    """The records of one sweep, in memory and in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[int, Record] = {}
        if not exists(folder):
            raise errors.SweepError(f"{folder} holds no sweep: there is no `sweep.json`.")
        self.id, self.settings = _read(folder / "sweep.json", _sweep, f"Take it from a copy, or delete {folder}")
        for path in sorted(storage.found(folder, "trials/*/trial.json")):
            record = _read(path, _record, f"Delete {path.parent}; the same sweep command then runs this trial again")
            self.records[record.number] = record

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, Any]) -> Ledger:
        """Start a new sweep in a folder that holds none."""
        write(folder / "sweep.json", {"id": uuid.uuid4().hex[:12], "created": time.time(), "settings": settings})
        return cls(folder)

    def resettle(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings that the sweep goes on with, where they are others than before."""
        if settings != self.settings:
            stored = json.loads(storage.read(self.folder / "sweep.json") or b"{}")
            write(self.folder / "sweep.json", stored | {"settings": settings})
            self.settings = dict(settings)

    def put(self, record: Record) -> None:
        """Keep a record: on disk first, then in memory."""
        write(self.trial_folder(record.number) / "trial.json", dataclasses.asdict(record))
        self.records[record.number] = record

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def finished(self) -> list[Record]:
        """Records of ended trials in the order of their numbers."""
        return [record for _, record in sorted(self.records.items()) if record.state != "running"]


def write(path: Path, value: Any) -> None:
    """Write JSON in one piece, so that a kill leaves the old file or the new one."""
    storage.write(path, json.dumps(value, indent=1, default=dict))


def _read(path: Path, decode: Callable[[dict[str, Any]], Decoded], way_out: str) -> Decoded:
    """What a file of ours says. No kill leaves half of one (see `write`), so one that cannot be read was damaged."""
    try:
        return decode(json.loads(storage.read(path) or b""))
    except (ValueError, KeyError, TypeError) as error:
        raise errors.SweepError(f"{path} is damaged ({errors.summary(error)}). {way_out}.") from None


def _sweep(found: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return found["id"], found["settings"]


def _record(found: dict[str, Any]) -> Record:
    points = tuple(Point(**point) for point in found.pop("points"))
    scaled = tuple(Candidate(**candidate) for candidate in found.pop("scaled"))
    return Record(**found | {"repeats": tuple(found["repeats"])}, points=points, scaled=scaled)
