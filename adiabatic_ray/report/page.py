"""The report of a sweep: one self-contained page, its figures as files, and the leaderboard as CSV.

The sentences of the page are in its templates: `page.html`, and those that it includes.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from adiabatic_ray import storage
from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.evaluate.significance import SIGNIFICANT
from adiabatic_ray.report import charts, details, figures, pictures, tables
from adiabatic_ray.report.assurance import Assurance, gain_test, way_out
from adiabatic_ray.report.evidence import Evidence, gather
from adiabatic_ray.report.importances import Importances
from adiabatic_ray.report.predictions import Predictions
from adiabatic_ray.report.summary import summarise
from adiabatic_ray.report.trade import Trade
from adiabatic_ray.search.importance import importances
from adiabatic_ray.trials import naming
from adiabatic_ray.trials.layout import SweepFolder
from adiabatic_ray.trials.record import TrialRecord, best
from adiabatic_ray.trials.store import TrialStore

LARGEST_SVG = 700_000  # bytes; a browser draws thousands of vectors slowly, so beyond this the page shows the PNG

Cell = tuple[str, str]  # a text, and the number to sort by (empty for a text)


def write(store: TrialStore) -> list[Path]:
    """Write the report's page, figures and leaderboard into the sweep's folder, and return their paths.

    Only one process writes at a time: a user may ask for the report when the sweep that runs is about to write it.

    Raises:
        SweepError: the outcomes of the untouched encoder cannot be read.
    """
    with storage.lock(store.folder.report_lock, wait=True):
        return write_from(store, gather(store), importances(store))


def write_from(store: TrialStore, evidence: Evidence, shares: Importances) -> list[Path]:
    """Write the report from evidence and importances that were computed before, and return the paths."""
    records = [record for _, record in sorted(store.records.items())]
    drawn = pictures.draw(store, records, evidence, shares)
    written, sources = _save(drawn, store.folder)
    columns, rows = _leaderboard(records)
    content = _template().render(
        folder=store.folder,
        sweep=store.sweep,
        objective=store.sweep.search.gain.key,
        guard=" and ".join(guard.key for guard in store.sweep.constraint.guarded),
        guards=store.sweep.constraint.guarded,
        gain_test=gain_test(store.sweep.search.gain),
        summary=summarise(store.sweep, records, evidence),
        assurance=Assurance.of(store, best(records)),
        way_out=way_out(store),
        evidence=evidence,
        trade=Trade.of(records),
        predictions=Predictions.of(records),
        pictures=drawn,
        sources=sources,
        library=charts.library(),
        charts={name: picture.charts for name, picture in drawn.items() if picture.charts},
        tips=charts.tips(records, best(records), _of_gain(store, evidence)),
        course=details.COURSE,
        details=details.of(store, records),
        columns=columns,
        rows=rows,
    )
    storage.write(store.folder.report, content)
    return [store.folder.report, *written, tables.write(records, store.folder.leaderboard)]


def _of_gain(store: TrialStore, evidence: Evidence) -> dict[int, Interval]:
    """The interval of each trial's gain, where it is known."""
    key = store.sweep.search.gain.key
    return {number: sets[key] for number, sets in evidence.improvements.items() if key in sets}


def _save(drawn: Mapping[str, pictures.Picture], folder: SweepFolder) -> tuple[list[Path], dict[str, str]]:
    """Write the figures. Return their paths, and for each drawn figure a URL that holds it whole."""
    written, sources = [], {}
    with storage.building(folder.figures) as building:
        for name, picture in drawn.items():
            if picture.figure is not None:
                png, svg = figures.save(picture.figure, building, name)
                sources[name] = _embedded(png, svg)
                written += [folder.figures / png.name, folder.figures / svg.name]
    return written, sources


def _embedded(png: Path, svg: Path) -> str:
    kind, path = ("svg+xml", svg) if svg.stat().st_size <= LARGEST_SVG else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _leaderboard(records: Sequence[TrialRecord]) -> tuple[list[str], list[list[Cell]]]:
    """The columns and the rows of the table of all trials."""
    if not records:
        return [], []
    table = tables.table(records).loc[:, :"reason"]
    rows = [[_cell(value) for value in row] for row in table.astype(object).itertuples(index=False, name=None)]
    return list(table.columns), rows


def _cell(value: object) -> Cell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", ""
    if isinstance(value, bool):
        return "yes" if value else "no", ""
    if isinstance(value, int | float):
        return naming.show(value), repr(value)
    return str(value), ""


def _template() -> jinja2.Template:
    return environment().get_template("page.html")


@functools.cache
def environment() -> jinja2.Environment:
    """The templates of all pages, with what turns values into words."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": lambda value: "" if value is None else f"{value:+.2f}%",
        "signed": lambda value: "" if value is None else f"{value:+.2f}",
        "p_value": lambda value: "" if value is None else f"{value:.2g}",
        "plain": lambda value: f"{value:g}",
        "show": naming.show,
        "pair": pair,
        "configuration": naming.configuration,
        "embedded": charts.embedded,
    }
    made.globals["SIGNIFICANT"] = SIGNIFICANT
    return made


def pair(label: str) -> str:
    """`neutral/de/en` in words, also after the name of a guard; other labels (a language, `overall`) stay."""
    guard, comparison, query, text = tables.parts(label)
    if not text:
        return label or "unknown"
    against = f", {comparison}" if comparison else ""
    return f"{'/'.join(guard)}: " * bool(guard) + f"{query} query, {text} texts{against}"
