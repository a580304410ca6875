"""The report of a sweep: one self-contained page, its figures as files, and the leaderboard as CSV."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from adiabatic_ray import storage
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.bootstrap import Interval
from adiabatic_ray.evaluate.significance import SIGNIFICANT
from adiabatic_ray.report import figures, heat_maps, leaderboard, regime
from adiabatic_ray.report.evidence import Evidence
from adiabatic_ray.report.leaderboard import configuration, show
from adiabatic_ray.report.ledger import OUTCOMES, UNTOUCHED, Ledger, Record, best, contenders, ranked
from adiabatic_ray.report.regime import Change

LARGEST_SVG = 700_000  # bytes; a browser draws thousands of vectors slowly, so beyond this the page shows the PNG

Importances = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Picture:
    """A figure of the page: the name of its files, what it shows in words, how to read it, and itself.

    `figure` is `None` where there is nothing to draw; `caption` then says why.
    """

    name: str
    alt: str
    caption: str
    figure: Figure | None = None


@dataclass(frozen=True)
class Row:
    """A line of the summary's table."""

    label: str
    selection: str
    confirmation: str


def write(ledger: Ledger, evidence: Evidence, importances: Importances) -> list[Path]:
    """Write `report.html`, `figures/` and `leaderboard.csv` into the sweep's folder; the paths written."""
    records = [record for _, record in sorted(ledger.records.items())]
    written, sources = [], {}
    drawn = _pictures(ledger, records, evidence, importances)
    with storage.building(ledger.folder / "figures") as folder:
        for picture in drawn.values():
            if picture.figure is not None:
                paths = figures.save(picture.figure, folder, picture.name)
                sources[picture.name] = _embedded(*paths)
                written += [ledger.folder / "figures" / path.name for path in paths]
    winner = best(records)
    columns, rows = _table(records)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = environment.get_template("page.html").render(
        name=ledger.settings["name"],
        model=ledger.settings["model"]["name"],
        objective=ledger.settings["search"]["objective"],
        guarded=ledger.settings["constraint"]["data"],
        verdict=_verdict(records, winner, ledger.settings),
        found=winner is not None,
        counts=_counts(records),
        damaged=evidence.damaged,
        facts=_facts(winner, ledger.settings) if winner else {},
        measured=_measured(winner, evidence, ledger.settings) if winner else [],
        regimes=evidence.regimes,
        place=_place,
        interval=_interval,
        show=show,
        pictures=drawn,
        sources=sources,
        columns=columns,
        rows=rows,
        method=_method(ledger.settings),
    )
    page = ledger.folder / "report.html"
    storage.write(page, content)
    return [page, *written, leaderboard.write(records, ledger.folder)]


def _embedded(png: Path, svg: Path) -> str:
    kind, path = ("svg+xml", svg) if svg.stat().st_size <= LARGEST_SVG else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


# ---- the summary ---------------------------------------------------------------------------------------------------


def _verdict(records: Sequence[Record], winner: Record | None, settings: Mapping[str, Any]) -> list[str]:
    """The sweep's outcome in a few sentences."""
    objective, guarded = settings["search"]["objective"], settings["constraint"]["data"]
    trials = [record for record in records if record.number != UNTOUCHED]
    if winner is not None and winner.candidate is not None:
        return [_success(winner, objective, guarded), _standing_of_confirmation(winner, settings)]
    refuted = [record for record in contenders(trials) if record.confirmed is False]
    if refuted:
        each = "; ".join(f"trial {r.number}, {r.refutation}" for r in refuted[:10])
        return [
            "No encoder can be handed over: confirmation refuted every trial that was feasible in selection.",
            f"On sets that no trial had seen: {each}"
            + (f"; and {len(refuted) - 10} more." if len(refuted) > 10 else "."),
            "Search smaller learning rates, or confirm more trials.",
        ]
    measured = [r for r in ranked(trials) if not r.failed and r.constraint is not None and r.state != "running"]
    if not measured:
        return ["No trial is feasible: none was measured to its end." if trials else "No trial has run yet."]
    nearest = measured[0]
    if nearest.candidate:
        return [
            f"No feasible trial is better on {objective} than the untouched encoder, so there is nothing to hand over.",
            f"The best of them is trial {nearest.number} ({configuration(nearest)}), gain "
            f"{percent(nearest.candidate.gain)}.",
            "Search larger learning rates, or more steps.",
        ]
    return [
        "No trial is feasible: each of them harms a language, or cannot be shown to harm none.",
        f"The least infeasible one is trial {nearest.number} ({configuration(nearest)}): constraint "
        f"{nearest.constraint:+.2f} (feasible at 0 or below), worst pair {pair(nearest.worst)} with "
        f"z = {nearest.metrics.get('constraint/worst_z', math.nan):+.2f}, gain {percent(nearest.gain)}.",
        "Search smaller learning rates, or freeze more.",
    ]


def _success(winner: Record, objective: str, guarded: str) -> str:
    candidate = winner.candidate
    assert candidate is not None
    scale = "" if candidate.scale == 1 else f", its displacement scaled to {candidate.scale:g},"
    p_value = candidate.metrics["p_value"]
    doubt = "" if p_value < SIGNIFICANT else ", which is not significant,"
    return (
        f"Trial {winner.number}{scale} improves {objective} by {percent(candidate.gain)}{doubt} and is feasible: on "
        f"{guarded} nothing is significantly worse than with the untouched encoder, and all together is not worse by "
        "more than the margin."
    )


def _standing_of_confirmation(winner: Record, settings: Mapping[str, Any]) -> str:
    if winner.confirmation:
        gain, p_value = winner.confirmation["gain"], winner.confirmation["p_value"]
        sure = "significant" if p_value < SIGNIFICANT else "not significant"
        return f"It stayed feasible on sets that no trial had seen, with a gain of {percent(gain)} there ({sure})."
    if winner.repeats:
        return "Its configuration stayed feasible with other seeds, on sets that no trial had seen."
    if not settings["evaluate"]["confirmation"]:
        return "The sweep has no confirmation sets, so its gain was selected for and is likely too large."
    return "It is not confirmed on unseen sets yet, so its gain was selected for and is likely too large."


def _counts(records: Sequence[Record]) -> str:
    trials = [record for record in records if record.number != UNTOUCHED]
    tally = {
        "feasible": sum(record.feasible for record in trials),
        "feasible only when scaled down": sum(bool(record.candidate) and not record.feasible for record in trials),
        "infeasible": sum(record.state == "complete" and not record.candidate for record in trials),
        "stopped early as harmful": sum(record.state == "stopped" for record in trials),
        "failed": sum(record.failed for record in trials),
        "not finished": sum(record.state == "running" for record in trials),
    }
    always = ("feasible", "stopped early as harmful", "failed")
    listed = ", ".join(f"{count} {name}" for name, count in tally.items() if count or name in always)
    return f"{len(trials)} {'trial' if len(trials) == 1 else 'trials'} beside the untouched encoder: {listed}."


def _facts(winner: Record, settings: Mapping[str, Any]) -> dict[str, str]:
    assert winner.candidate is not None
    scale = winner.candidate.scale
    facts = {
        "Trial": str(winner.number),
        "Configuration": configuration(winner),
        "Displacement": "all of it (scale 1)" if scale == 1 else f"scaled to {scale:g}; all of it is not feasible",
        "Frozen": str(winner.config.get("freeze", settings["train"]["freeze"])),
    }
    if winner.repeats:
        gains = [repeat["gain"] for repeat in winner.repeats]
        spread = "" if winner.spread is None else f", standard deviation {winner.spread:.2f}"
        facts["Other seeds"] = (
            f"{winner.stayed} of {len(gains)} stayed feasible; mean gain {percent(winner.steadiness[1])}{spread} "
            f"({percent(min(gains))} to {percent(max(gains))})"
        )
    return facts


def _measured(winner: Record, evidence: Evidence, settings: Mapping[str, Any]) -> list[Row]:
    """Selection beside confirmation."""
    assert winner.candidate is not None
    selected, confirmed = winner.candidate.metrics, winner.confirmation
    objective, guarded = settings["search"]["objective"], settings["constraint"]["data"]

    def row(label: str, key: str, write: Any, suffix: str = "") -> Row:
        left, right = (write(found[key]) if key in found else "" for found in (selected, confirmed))
        return Row(label, left + suffix, right)

    rows = [
        _improvement(f"gain: improvement on {objective}", objective, winner, evidence),
        row("p-value of the gain (two-tailed, exact McNemar)", f"p_value/{objective}", "{:.2g}".format),
    ]
    sets = [key.split("/")[1] for key in selected if key.startswith("improvement/") and key.count("/") == 1]
    rows += [
        _improvement(f"improvement on {name}", name, winner, evidence)
        for name in sorted(sets, key=lambda name: name != guarded)
        if name != objective
    ]
    return [
        *rows,
        row(f"improvement of the worst language on {guarded}", "worst_language", percent),
        row("worst language pair, degradation z", "constraint/worst_z", "{:+.2f}".format,
            f" ({pair(winner.candidate.worst)})" if winner.candidate.worst else ""),
        row(f"overall degradation on {guarded}, upper 95% bound", "constraint/upper", percent),
        row("constraint (feasible at 0 or below)", "constraint", "{:+.2f}".format),
    ]  # fmt: skip


def _improvement(label: str, name: str, winner: Record, evidence: Evidence) -> Row:
    assert winner.candidate is not None
    texts = [
        _estimate(metrics.get(f"improvement/{name}"), intervals.get(name))
        for metrics, intervals in (
            (winner.candidate.metrics, evidence.selection),
            (winner.confirmation, evidence.confirmation),
        )
    ]
    return Row(label, *texts)


def _estimate(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return ""
    return percent(value) + (f" [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else "")


def percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.2f}%"


def pair(label: str) -> str:
    """`neutral/de/en` in words; other labels (a language, `overall`) stay as they are."""
    parts = label.split("/")
    return f"{parts[1]} query, {parts[2]} texts, {parts[0]}" if len(parts) == 3 else label or "unknown"


def _place(change: Change | None) -> str:
    """Between which tried rates something changes."""
    if change is None:
        return "not identified"
    if change.below is None and change.above is None:
        return "no rate was tried"
    if change.below is None:
        return f"at or below {show(change.above)}, the smallest tried"
    if change.above is None:
        return f"above {show(change.below)}, the largest tried"
    return f"between {show(change.below)} and {show(change.above)}"


def _interval(change: Change | None) -> str:
    return "" if change is None else str(change)


# ---- figures -------------------------------------------------------------------------------------------------------


def _pictures(
    ledger: Ledger, records: Sequence[Record], evidence: Evidence, importances: Importances
) -> dict[str, Picture]:
    winner, objective = best(records), ledger.settings["search"]["objective"]
    settings = ledger.settings
    pictures = [_heat_maps(ledger, winner), _curves(settings, records, evidence), _rates(settings, records)]
    if not figures.tuned(records):
        pictures += [
            Picture(name, "", "No trial was measured yet.") for name in ("worst_language", "history", "parallel")
        ]
    else:
        pictures += [
            Picture(
                "worst_language",
                "Scatter plot of the gain against the improvement of the worst language, with Pareto fronts.",
                f"{_bought(records)} Up and to the right is better. Axes are logarithmic beyond what is feasible.",
                figures.gain_against_worst_language(records, objective, winner),
            ),
            Picture(
                "history",
                "Gain of every trial in the order of the trials, with the best feasible gain so far.",
                "Where only a part of a displacement is feasible, the gain is that of the largest such part. The line "
                "is what selection knew; confirmation and other seeds come later and may prefer another trial.",
                figures.history(records, objective),
            ),
            Picture(
                "parallel",
                "Parallel coordinates of the searched hyper-parameters, the gain and the constraint.",
                "Each line is a trial; gain and constraint are those of its whole displacement, and feasible means a "
                "constraint of 0 or below. Lines are spread a little around discrete choices.",
                figures.parallel_coordinates(records, ledger.settings["search"]["space"], winner),
            ),
        ]
    shares = {target: found for target, found in importances.items() if found}
    pictures.append(
        Picture(
            "importances",
            "Bars of the importance of each hyper-parameter for the gain and for the constraint.",
            "How much each hyper-parameter matters for being among the better trials: shares of 1, by PED-ANOVA.",
            figures.importances(shares),
        )
        if shares
        else Picture("importances", "", "Importances are not known: too few trials, or nothing varied between them.")
    )
    return {picture.name: picture for picture in pictures}


def _heat_maps(ledger: Ledger, winner: Record | None) -> Picture:
    def absent(reason: str) -> Picture:
        return Picture("heat_maps", "", f"There are no heat maps: {reason}")

    guarded = ledger.settings["constraint"]["data"]
    if winner is None or winner.candidate is None:
        return absent("no trial is handed over.")
    found = [outcomes.load(ledger.trial_folder(number) / OUTCOMES) for number in (UNTOUCHED, winner.number)]
    if found[0] is None or found[1] is None:
        return absent(f"the outcomes of trial {UNTOUCHED if found[0] is None else winner.number} cannot be read.")
    scale = winner.candidate.scale
    base, tuned = found[0].by_scale.get(1.0, {}).get(guarded), found[1].by_scale.get(scale, {}).get(guarded)
    if base is None or tuned is None or base.shape != tuned.shape:
        return absent(f"the outcomes of trial {winner.number} on {guarded} at scale {scale:g} were not kept.")
    if base.dim() != 4:
        return absent(f"{guarded} has no pairs of languages.")
    title = f"Improvement on {guarded} of trial {winner.number}, scale {scale:g}"
    return Picture(
        "heat_maps",
        f"Two heat maps, one for each comparison, of the improvement on {guarded} by query and text language.",
        f"Selection set, {len(base)} premises. Purple is better than the untouched encoder, orange worse; a cross "
        "marks cells whose change is not significant, so cells without one are. The test looks at each cell on its "
        "own, so about one in twenty unchanged cells goes without a cross by chance.",
        heat_maps.improvement(base, tuned, found[0].languages[guarded], title),
    )


def _curves(settings: Mapping[str, Any], records: Sequence[Record], evidence: Evidence) -> Picture:
    if "learning_rate" not in settings["search"]["space"]:
        rate = show(settings["train"]["learning_rate"])
        return Picture(
            "curves", "", f"There are no curves: the learning rate was not searched, it is {rate} throughout."
        )
    shown = [record for record in figures.tuned(records) if "learning_rate" in record.config]
    if not shown:
        return Picture("curves", "", "No trial was measured yet.")
    if not evidence.improvements:
        return Picture("curves", "", "There are no curves: no trial's outcomes can be read.")
    return Picture(
        "curves",
        "Improvement on every selection set against the learning rate, a line for each freezing mask.",
        "Every point is a trial's whole displacement at its last measurement; lines join the means of trials that "
        "share a learning rate (of neighbouring rates, where nearly every trial has its own), which may differ in "
        "other hyper-parameters, and bands are the mean 95% bootstrap interval. Markers are filled where the change is "
        "significant: by the two-tailed exact McNemar test on triplets, and on XNLI, whose pairs of languages share "
        "premises, where the trial's interval excludes 0. Shading, up to the dashed line, is each mask's feasible "
        "range. Axes are logarithmic beyond what feasible trials reach.",
        figures.improvement_curves(shown, evidence.improvements, evidence.regimes, str(settings["train"]["freeze"])),
    )


def _rates(settings: Mapping[str, Any], records: Sequence[Record]) -> Picture:
    shown = [record for record in figures.tuned(records) if "learning_rate" in record.config]
    if not shown:  # the curves' place says why
        return Picture("rates", "", "")
    return Picture(
        "rates",
        "Gain and improvement of the worst language against the learning rate, coloured by feasibility.",
        "The same trials by what became of them. Both values are those of the whole displacement, also where only a "
        "part of it is feasible.",
        figures.outcomes_over_rate(shown, settings["search"]["objective"]),
    )


def _bought(records: Sequence[Record]) -> str:
    """What measuring parts of displacements adds, in numbers."""
    shown = figures.tuned(records)
    wholes, everything = ([p for r in shown for p in figures.outlook(r, scaled=part)] for part in (False, True))
    rescued = sum(bool(record.candidate) and not record.feasible for record in shown)
    if not everything:
        return "Nothing is feasible, neither whole displacements nor parts of them."
    if not any(record.scaled for record in shown):
        return f"The largest feasible gain is {percent(max(y for _, y in wholes))}; no parts were measured."
    before = f"from {percent(max(y for _, y in wholes))} " if wholes else "from nothing "
    return (
        f"Scaling displacements down makes {rescued} more trials feasible and takes the largest feasible gain {before}"
        f"to {percent(max(y for _, y in everything))}; the front has {len(figures.front(wholes))} points without parts "
        f"and {len(figures.front(everything))} with them."
    )


# ---- the table and the method --------------------------------------------------------------------------------------


def _table(records: Sequence[Record]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Columns, and rows of cells: the text, and the number to sort by (empty for a text)."""
    if not records:
        return [], []
    found = leaderboard.table(records).loc[:, :"reason"]
    rows = [[_cell(value) for value in row] for row in found.astype(object).itertuples(index=False, name=None)]
    return list(found.columns), rows


def _cell(value: Any) -> tuple[str, str]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", ""
    if isinstance(value, bool):
        return "yes" if value else "no", ""
    if isinstance(value, int | float):
        return show(value), repr(value)
    return str(value), ""


def _method(settings: Mapping[str, Any]) -> dict[str, str]:
    constraint, objective = settings["constraint"], settings["search"]["objective"]
    level = {"pair": "pair of languages and comparison", "language": "query language", "overall": "set as a whole"}
    return {
        "Gain": (
            f"100 (D_base - D_tuned) / D_base, with D the number of discordant triplets of {objective}: those whose "
            "negative scores at least as high as the positive. Only the query encoder is tuned; all documents keep the "
            "untouched encoder's embeddings."
        ),
        "Constraint": (
            f"The larger of two relative violations on {constraint['data']}, feasible at 0 or below. (a) No single "
            f"{level[constraint['level']]} is significantly worse: the degradation z, (broken - fixed) / sqrt(broken + "
            f"fixed) for a pair, stays below the two-tailed critical value at {constraint['alpha']:g}, "
            "Bonferroni-corrected over all of them. (b) Overall non-inferiority: the upper one-sided 95% bound of the "
            f"degradation, clustered by premise, stays below {constraint['margin']:g}% of the untouched encoder's "
            "discordant triplets."
        ),
        "Significance": (
            "Two-tailed exact McNemar test at 0.05 on the triplets whose outcome changed between the untouched and the "
            "tuned encoder. It is not corrected for the number of trials: the best of many looks better than it is, "
            "which is what confirmation on unseen sets is for."
        ),
        "Intervals": (
            "95% percentile intervals of a bootstrap over queries, and on XNLI over premises with all their pairs of "
            "languages together. They hold what another sample of queries would change, not what another seed of the "
            "training would; that is what repetitions show."
        ),
        "Adiabatic regime": regime.METHOD,
    }
