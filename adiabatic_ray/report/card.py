"""The model card of an exported encoder: what was done, what came of it, and what it is good for."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jinja2

from adiabatic_ray import config
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.report.assurance import Assurance, gain_test
from adiabatic_ray.report.evidence import compared_sets
from adiabatic_ray.trials import naming
from adiabatic_ray.trials.record import UNTOUCHED, TrialRecord
from adiabatic_ray.trials.store import TrialStore


class MeasuredSet(NamedTuple):
    """A line of the card's table of sets: its PND, or a ranking metric, with which `name` begins then.

    `before` is `None` where the untouched encoder was not measured on it.
    """

    name: str
    before: float | None
    after: float
    improvement: float


def render(store: TrialStore, record: TrialRecord) -> str:
    """The card of a trial's candidate, as Markdown with YAML front matter.

    One text for all exported models: it shows the use of each. A trial without a candidate (infeasible, exported all
    the same) is described by its whole displacement, under a warning. The table of languages is left out where the
    outcomes of the untouched encoder cannot be read.
    """
    exported = store.folder.best
    return _template().render(
        name=store.sweep.name,
        sweep_id=store.id,
        trial=record.number,
        query_encoder=exported.query_encoder.name,
        retrieval_model=exported.retrieval_model.name,
        query_adapter=exported.query_adapter.name,
        **_base_model(store.sweep.model),
        **_training(store, record),
        **_results(store, record),
        **_languages(store, record),
    )


def _base_model(model: config.Model) -> dict[str, object]:
    """The base model, and how it takes texts."""
    # A folder's path is nobody else's business, and no model id that the hub knows.
    folder, length = _is_folder(model.name), model.max_length.passage
    return {
        "model": model,
        "base_model": None if folder else model.name,
        "model_name": Path(model.name).name if folder else model.name,
        "query_prompt": _prompt(model.prompts.query),
        "document_prompt": _prompt(model.prompts.passage),
        "cut": f", truncate_dim={model.truncate_dim}" if model.truncate_dim else "",
        "document_length": f"{length} tokens" if length else "the model's own maximum",
    }


def _training(store: TrialStore, record: TrialRecord) -> dict[str, object]:
    """What the trial was trained with, or of a soup its parts were, and every data set of the sweep by its role."""
    sweep = store.sweep
    if record.is_soup:
        settings = {
            f"trial {number}": f"{share:.3g} of its displacement; {naming.configuration(store.records[number])}"
            for number, share in record.shares.items()
        }
    else:
        settings = dataclasses.asdict(sweep.train) | config.choices(record.config)
    sources = {"training": sweep.train.data}
    for section, sets in (("selection", sweep.evaluate.selection), ("confirmation", sweep.evaluate.confirmation)):
        sources |= {f"{section}, {name}": source for name, source in sets.items()}
    return {
        "train": {key: value for key, value in settings.items() if key != "data" and value is not None},
        "soup": record.is_soup,
        "data": sweep.train.data,
        "sources": sources,
    }


def _results(store: TrialStore, record: TrialRecord) -> dict[str, object]:
    """What selection and confirmation measured of the candidate."""
    sweep, candidate, untouched = store.sweep, record.candidate or record.whole, store.records.get(UNTOUCHED)
    before, confirmed_before = (untouched.metrics, untouched.confirmation) if untouched else ({}, {})
    return {
        "objective": sweep.search.gain.key,
        "constraint": sweep.constraint,
        "gain_test": gain_test(sweep.search.gain),
        "guard_names": [guard.key for guard in sweep.constraint.guarded],
        "scale": candidate.scale,
        "worst": candidate.worst,
        "forced": record.candidate is None,
        "confirmed": record.confirmed,
        "refutation": record.refutation,
        "selection": candidate.metrics,
        "confirmation": record.confirmation,
        "sets": _sets(sweep.evaluate.selection, candidate.metrics, before),
        "confirmation_sets": _sets(sweep.evaluate.confirmation, record.confirmation, confirmed_before),
        "repeats": record.repeats,
        "assurance": Assurance.of(store, record),
    }


def _sets(names: Iterable[str], metrics: Mapping[str, float], before: Mapping[str, float]) -> list[MeasuredSet]:
    keys = {key: key if "/" in key else f"pnd/{key}" for key in compared_sets(names, metrics)}
    return [
        MeasuredSet(key, before.get(value), metrics[value], metrics[f"improvement/{key}"])
        for key, value in keys.items()
    ]


class Language(NamedTuple):
    """A line of the card's table of languages. What was not confirmed is `None`."""

    name: str
    selected: float
    confirmed: float | None
    bound: float | None


def _languages(store: TrialStore, record: TrialRecord) -> dict[str, object]:
    """The improvement of each language of each guard, selected and confirmed; `codes` are for the hub's tags."""
    selected, tables = (record.candidate or record.whole).metrics, {}
    stored = outcomes.load(store.folder.trial(UNTOUCHED).outcomes)
    assurance = Assurance.of(store, record)
    bounds = {one.name: one.languages for one in assurance.guards} if assurance else {}
    for guard in (one.key for one in store.sweep.constraint.guarded):
        keys = {name: _key(guard, name) for name in (stored.languages.get(guard, []) if stored else [])}
        lines = [
            Language(name, selected[key], record.confirmation.get(key), bounds.get(guard, {}).get(name))
            for name, key in keys.items()
            if key in selected
        ]
        if lines:
            tables[guard] = lines
    codes = {one.name for lines in tables.values() for one in lines if re.fullmatch(r"[a-z]{2,3}", one.name)}
    return {"languages": tables, "codes": sorted(codes)}


def _key(guard: str, language: str) -> str:
    return f"improvement/{guard}/{language}"


def _prompt(given: str | None) -> str:
    if given is None:
        return "the model's own prompt, if it has one"
    return _code(json.dumps(given, ensure_ascii=False)) if given else "none"


def _is_folder(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith(".") or Path(name).is_dir() or name.count("/") > 1


def _text(value: object) -> str:
    """A value as Markdown text that starts no markup, no table cell and no new line."""
    line = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)


def _code(value: object) -> str:
    """A value as code in a line or a table's cell, where a backslash escapes nothing but `|`."""
    line = " ".join(str(value).split()) or " "
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    padding = " " if len(fence) > 1 else ""
    return f"{fence}{padding}{line}{padding}{fence}".replace("|", "\\|")


def _path(source: config.Source) -> str:
    """A data set by its hub id, or by the last part of a local path, with its subset, split, revision and limit."""
    name = source.path
    shown = [Path(name).name if _is_folder(name) or Path(name).exists() else name]
    details = {"name": source.name, "split": source.split, "revision": source.revision, "limit": source.limit}
    return ", ".join([*shown, *(f"{key} {value}" for key, value in details.items() if value is not None)])


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(  # noqa: S701 - Markdown; the filters below escape
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "text": _text,
        "code": _code,
        "path": _path,
        "yaml": lambda value: json.dumps(str(value)),  # a JSON string is a YAML string
        "signed": lambda value: "" if value is None else f"{value:+.2f}",
        # PND in percent, and metrics between 0 and 1
        "measured": lambda value, key: "" if value is None else f"{value:.{4 if '/' in key else 2}f}",
        "p": lambda value: "" if value is None else f"{value:.1e}",
    }
    return environment.get_template("card.md")
