"""What a trial was tried with, in words for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adiabatic_ray import config
from adiabatic_ray.trials.record import TrialRecord

SHORT = {"learning_rate": "rate", "batch_size": "batch"}


def show(value: Any) -> str:
    """A hyper-parameter or result for people: three significant digits, and all those before the point."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def line(chosen: Mapping[str, Any]) -> str:
    """A configuration in a line."""
    return ", ".join(f"{key} {show(value)}" for key, value in chosen.items())


def configuration(record: TrialRecord) -> str:
    """What a trial was tried with, in a line; empty for the untouched encoder."""
    return line(record.config)


def differences(records: Iterable[TrialRecord]) -> dict[int, str]:
    """What each trial was tried with in a few words, by its number, without what is the same in all of them.

    Masks are named without the parts that all of them freeze.
    """
    configs = {record.number: record.config for record in records if record.config}
    names = list(dict.fromkeys(name for one in configs.values() for name in one))
    names = [name for name in names if len({str(one.get(name)) for one in configs.values()}) > 1] or names
    shared = _shared([str(one["freeze"]) for one in configs.values() if "freeze" in one])
    return {number: _short(one, names, shared) for number, one in configs.items()}


def among_choices(record: TrialRecord, space: Mapping[str, config.Range | list[config.Scalar]]) -> str:
    """What a trial was tried with in a few words, without what is the same in the whole search space."""
    if record.is_soup:
        return line(record.config)
    names = [name for name, choices in space.items() if not isinstance(choices, list) or len(choices) > 1]
    masks = space.get("freeze", [])
    return _short(record.config, names, _shared([str(mask) for mask in masks] if isinstance(masks, list) else []))


def _shared(masks: Sequence[str]) -> set[str]:
    """The parts that all masks have."""
    return set.intersection(*(set(mask.split("+")) for mask in masks)) if masks else set()


def _short(chosen: Mapping[str, Any], names: Iterable[str], shared: set[str]) -> str:
    def cell(name: str) -> str:
        value = chosen[name]
        if name == "freeze":
            value = "+".join(part for part in str(value).split("+") if part not in shared) or "nothing more"
        return f"{SHORT.get(name, name)} {show(value)}"

    return ", ".join(cell(name) for name in names if name in chosen)
