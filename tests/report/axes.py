"""Reading the numbers of a figure back from its axes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

Points = list[tuple[float, float]]


def only(figure: Figure) -> Axes:
    """The axes of a figure that has one."""
    (axes,) = figure.axes
    return axes


def scatters(axes: Axes) -> list[PathCollection]:
    return [drawn for drawn in axes.collections if isinstance(drawn, PathCollection)]


def points(axes: Axes) -> Points:
    """All scattered points, sorted."""
    return sorted(point for drawn in scatters(axes) for point in _pairs(drawn.get_offsets()))


def scattered(axes: Axes) -> dict[str, Points]:
    """The scattered points by their labels in the legend."""
    return {str(drawn.get_label()): _pairs(drawn.get_offsets()) for drawn in scatters(axes)}


def lines(axes: Axes) -> dict[str, Points]:
    """The corners of the lines by their labels in the legend; matplotlib's own label for a line that has none."""
    return {str(line.get_label()): _pairs(line.get_xydata()) for line in axes.lines}


def _pairs(array: npt.ArrayLike) -> Points:
    return [(float(x), float(y)) for x, y in np.asarray(array, dtype=float)]
