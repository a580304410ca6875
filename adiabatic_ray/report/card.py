"""The model card of an exported encoder: what was done, what came of it, and what it is good for."""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from adiabatic_ray import config
from adiabatic_ray.model.export import QUERY_ENCODER, RETRIEVAL_MODEL
from adiabatic_ray.report.ledger import UNTOUCHED, Ledger, Record


def render(ledger: Ledger, record: Record) -> str:
    """The card of a trial's candidate, as Markdown with YAML front matter.

    One text for both exported models: it shows the use of each. A trial without a candidate (infeasible, exported all
    the same) is described by its whole displacement, under a warning.
    """
    settings = ledger.settings
    model = settings["model"]
    length = (model.get("max_length") or {}).get("passage")
    candidate = record.candidate or record.whole
    untouched = ledger.records.get(UNTOUCHED)
    base = untouched.metrics if untouched else {}
    xnli = settings["constraint"]["data"]
    languages = {
        key.removeprefix(f"improvement/{xnli}/"): value
        for key, value in candidate.metrics.items()
        if key.startswith(f"improvement/{xnli}/")
    }
    train = settings["train"] | config.choices(record.config)
    confirmed_base = untouched.confirmation if untouched else {}
    return _template().render(
        name=settings["name"],
        sweep_id=ledger.id,
        trial=record.number,
        model=model,
        # A folder's path is nobody else's business, and no model id that the hub knows.
        base_model=None if _is_folder(model["name"]) else model["name"],
        model_name=Path(model["name"]).name if _is_folder(model["name"]) else model["name"],
        query_prompt=_prompt(model, "query"),
        document_prompt=_prompt(model, "passage"),
        document_length=f"{length} tokens" if length else "the model's own maximum",
        scale=candidate.scale,
        forced=record.candidate is None,
        confirmed=record.confirmed,
        refutation=record.refutation,
        train={key: value for key, value in train.items() if key != "data" and value is not None},
        data=settings["train"]["data"],
        objective=settings["search"]["objective"],
        constraint=settings["constraint"],
        selection=candidate.metrics,
        confirmation=record.confirmation,
        worst=candidate.worst,
        sets=_sets(candidate.metrics, base),
        confirmation_sets=_sets(record.confirmation, confirmed_base),
        languages=languages,
        confirmed_languages={x: record.confirmation.get(f"improvement/{xnli}/{x}") for x in languages},
        codes=sorted(x for x in languages if re.fullmatch(r"[a-z]{2,3}", x)),
        repeats=record.repeats,
        sources=_sources(settings),
        query_encoder=QUERY_ENCODER,
        retrieval_model=RETRIEVAL_MODEL,
    )


def _sets(metrics: Mapping[str, float], base: Mapping[str, float]) -> list[tuple[str, float | None, float, float]]:
    """Name, PND before, PND after and improvement of each set."""
    names = [key.removeprefix("pnd/") for key in metrics if key.startswith("pnd/")]
    return [(x, base.get(f"pnd/{x}"), metrics[f"pnd/{x}"], metrics[f"improvement/{x}"]) for x in names]


def _sources(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = {"training": settings["train"]["data"]}
    for section in ("selection", "confirmation"):
        for name, source in settings.get("evaluate", {}).get(section, {}).items():
            found[f"{section}, {name}"] = source
    return found


def _prompt(model: Mapping[str, Any], side: str) -> str:
    given = (model.get("prompts") or {}).get(side)
    if given is None:
        return "the model's own prompt, if it has one"
    return _code(json.dumps(given, ensure_ascii=False)) if given else "none"


def _is_folder(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith(".") or Path(name).is_dir() or name.count("/") > 1


# ---- what comes from outside ---------------------------------------------------------------------------------------


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


def _path(source: Mapping[str, Any]) -> str:
    """A data set by its hub id, or by the last part of a local path, with its subset, split and limit."""
    name = str(source["path"])
    shown = [Path(name).name if _is_folder(name) or Path(name).exists() else name]
    shown += [f"{key} {source[key]}" for key in ("name", "split", "revision", "limit") if source.get(key) is not None]
    return ", ".join(shown)


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
        "percent": lambda value: "" if value is None else f"{value:.2f}",
        "p": lambda value: "" if value is None else f"{value:.1e}",
    }
    return environment.get_template("card.md")
