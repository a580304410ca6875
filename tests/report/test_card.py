"""The model card: what it says, and that nothing from outside breaks it."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from adiabatic_ray.report import card
from adiabatic_ray.report.ledger import Candidate, Ledger, Point, Record

SETTINGS: dict[str, Any] = {
    "name": "sweep-one",
    "seed": 3,
    "model": {
        "name": "intfloat/multilingual-e5-small",
        "revision": "abc123",
        "prompts": {"query": "query: ", "passage": "passage: "},
        "max_length": {"query": 64, "passage": 256},
        "pooling": None,
    },
    "train": {
        "data": {"path": "org/msmarco", "split": "train", "limit": 2800},
        "learning_rate": 2e-8,
        "freeze": "embeddings",
        "batch_size": 14,
        "steps": 200,
        "epochs": None,
    },
    "evaluate": {
        "selection": {"msmarco": {"path": "org/msmarco"}, "xnli": {"path": "facebook/xnli"}},
        "confirmation": {"msmarco": {"path": "org/msmarco"}, "xnli": {"path": "facebook/xnli"}},
    },
    "search": {"objective": "msmarco"},
    "constraint": {"data": "xnli", "alpha": 0.05, "margin": 1.0, "level": "pair"},
}


def metrics(gain: float, constraint: float) -> dict[str, float]:
    return {
        "gain": gain,
        "p_value": 7e-5,
        "constraint": constraint,
        "pnd/msmarco": 8.25,
        "improvement/msmarco": gain,
        "pnd/xnli": 20.5,
        "improvement/xnli": 0.7,
        "improvement/xnli/de": 1.31,
        "improvement/xnli/ur": -0.42,
    }


BASE = {"pnd/msmarco": 9.5, "pnd/xnli": 20.75, "gain": 0.0, "constraint": -1.0}
WORST = "contradiction/ur/hi"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.create(tmp_path / "s", SETTINGS)
    points = (Point(0, 1.0, BASE),)
    ledger.put(Record(0, {}, "complete", "", 1.0, 1.0, points, confirmation={"pnd/msmarco": 9.25, "pnd/xnli": 21.0}))
    return ledger


def trial(**changes: Any) -> Record:
    record = Record(
        7,
        {"learning_rate": 1e-6, "epochs": 2},
        "complete",
        points=(Point(8, 1.0, metrics(13.4, 0.6)),),
        worst="neutral/de/ur",
        scaled=(Candidate(0.5, metrics(9.9, -0.3), WORST),),
        confirmation=metrics(8.8, -0.2),
        repeats=(
            {"gain": 9.1, "constraint": -0.4},
            {"gain": 8.0, "constraint": 0.1},
            {"gain": 8.5, "constraint": -0.2},
        ),
    )
    return dataclasses.replace(record, **changes)


def split(text: str) -> tuple[dict[str, Any], str]:
    """The front matter and the rest."""
    _, front, body = text.split("---\n", 2)
    return YAML(typ="safe", pure=True).load(front), body


def row(body: str, start: str) -> list[str]:
    """The cells of the table row that begins so."""
    (line,) = [line for line in body.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_card_says_what_was_done_and_what_came_of_it(ledger: Ledger) -> None:
    front, body = split(card.render(ledger, trial()))
    assert front["library_name"] == "sentence-transformers"
    assert front["base_model"] == "intfloat/multilingual-e5-small"
    assert front["license"] == "other"
    assert front["language"] == ["de", "ur"]
    assert row(body, "revision") == ["`abc123`"]
    assert row(body, "scale of the displacement") == ["0.5"]
    assert row(body, "`learning_rate`") == ["`1e-06`"]
    assert row(body, "`epochs`") == ["`2`"]
    assert "`steps`" not in body  # the trial's epochs replace them
    assert row(body, "gain, %") == ["+9.90", "+8.80"]  # the candidate's, not the whole displacement's
    assert row(body, "p") == ["7.0e-05", "7.0e-05"]
    assert row(body, "constraint") == ["-0.30", "-0.20"]
    assert row(body, "selection: `msmarco`") == ["9.50", "8.25", "+9.90"]
    assert row(body, "confirmation: `xnli`") == ["21.00", "20.50", "+0.70"]
    assert row(body, "ur") == ["-0.42", "-0.42"]
    assert f"`{WORST}`" in body
    assert row(body, "2") == ["+8.00", "+0.10", "**no**"]
    assert "parameters that match `embeddings`" in body
    for said in ('`"passage: "`', "256 tokens", "MS MARCO", "query_encoder", "retrieval_model", "encode_document"):
        assert said in body
    assert "WARNING" not in body
    assert "NOT CONFIRMED" not in body


def test_warnings_are_loud(ledger: Ledger) -> None:
    assert "> **NOT CONFIRMED.**" in card.render(ledger, trial(confirmation={}, repeats=()))
    assert "with other seeds" not in card.render(ledger, trial(repeats=()))
    refuted = card.render(ledger, trial(confirmation=metrics(8.8, 0.25)))
    assert "> **WARNING: REFUTED, EXPORTED BY FORCE.**" in refuted
    assert "is +0.25" in refuted
    forced = card.render(ledger, trial(scaled=(), confirmation={}))
    assert "> **WARNING: INFEASIBLE, EXPORTED BY FORCE.**" in forced
    body = split(forced)[1]
    assert row(body, "scale of the displacement") == ["1.0"]
    assert row(body, "constraint")[0] == "+0.60"
    assert "neutral/de/ur" in body


def test_what_comes_from_outside_breaks_nothing(ledger: Ledger, tmp_path: Path) -> None:
    hostile = 'a|b\n---\n# not a heading: "x" `y` <script>alert(1)</script> {{ "x" * 7 }}'
    settings = copy.deepcopy(SETTINGS)
    settings["model"] |= {"name": hostile, "revision": hostile, "prompts": {"query": hostile, "passage": "p|q\n"}}
    settings["train"]["data"] = {"path": hostile, "split": hostile}
    other = Ledger.create(tmp_path / "hostile", settings)
    other.put(ledger.records[0])
    text = card.render(other, trial(config={"freeze": hostile}, worst=hostile, scaled=()))
    front, body = split(text)
    assert front.get("base_model", hostile) == hostile
    assert not any(line.startswith("# not") for line in body.splitlines())
    assert body.count("\n---\n") == 0
    assert '{{ "x" * 7 }}' in body
    assert "xxxxxxx" not in body
    for line in body.splitlines():
        if line.startswith("| `freeze`"):
            assert line.replace("\\|", "").count("|") == 3


def test_a_local_base_model_is_named_by_its_folder_only(ledger: Ledger, tmp_path: Path) -> None:
    settings = copy.deepcopy(SETTINGS)
    settings["model"] |= {"name": "/home/somebody/models/e5", "revision": None}
    other = Ledger.create(tmp_path / "local", settings)
    other.put(ledger.records[0])
    front, body = split(card.render(other, trial()))
    assert "base_model" not in front
    assert "somebody" not in body
    assert row(body, "base model") == ["`e5`"]
    assert row(body, "revision") == ["`not pinned`"]
