"""Constrained sweeps over adiabatic tuning of multilingual query encoders.

`load_sweep` reads a sweep file, `run` runs or resumes the sweep, `open_sweep` opens its result, and `evaluate` measures
encoders. Each imports what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adiabatic_ray.evaluate.comparison import evaluate
    from adiabatic_ray.sweep.api import SweepResult, load_sweep, open_sweep, run

__version__ = "0.1.0"
__all__ = ["SweepResult", "evaluate", "load_sweep", "open_sweep", "run"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":  # a package that can be called
        return importlib.import_module("adiabatic_ray.evaluate")
    if name in __all__:
        return getattr(importlib.import_module("adiabatic_ray.sweep.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
