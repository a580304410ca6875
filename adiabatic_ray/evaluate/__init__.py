"""Measures encoders. The package is also a function of the Python API: `adiabatic_ray.evaluate(models, data)`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from adiabatic_ray.evaluate.comparison import Models, Sources


class _Evaluate(ModuleType):
    """A package that can be called, since the function of the Python API has the package's name."""

    def __call__(
        self, models: Models | Sequence[Models], data: Sources | Mapping[str, Sources], *, against: Models | None = None
    ) -> pd.DataFrame:
        from adiabatic_ray.evaluate.comparison import evaluate

        return evaluate(models, data, against=against)


sys.modules[__name__].__class__ = _Evaluate
