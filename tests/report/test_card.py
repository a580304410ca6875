"""The model card: what it says, and that nothing from outside breaks it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from adiabatic_ray import config
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.outcomes import Outcomes
from adiabatic_ray.report import card
from adiabatic_ray.trials.record import Candidate, Confirmation, Evaluation, TrialRecord
from adiabatic_ray.trials.store import TrialStore
from tests.records import checked

SOURCES = {"msmarco": config.Source(path="org/msmarco"), "xnli": config.Source(path="facebook/xnli")}
SWEEP = config.Sweep(
    name="sweep-one",
    seed=3,
    model=config.Model(
        name="intfloat/multilingual-e5-small",
        revision="abc123",
        prompts=config.Sides(query="query: ", passage="passage: "),
        max_length=config.Lengths(query=64, passage=256),
    ),
    train=config.Train(data=config.Source(path="org/msmarco", split="train", limit=2800), steps=200),
    evaluate=config.Evaluate(selection=SOURCES, confirmation=SOURCES),
    search=config.Search(objective="msmarco", space={"learning_rate": config.Range(low=1e-8, high=1e-5, log=True)}),
    constraint=config.Constraint(data="xnli"),
    budget=config.Budget(trials=8),
    storage="runs",
)


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


def in_folder(folder: Path, sweep: config.Sweep) -> TrialStore:
    """A sweep with the record and the outcomes of the untouched encoder."""
    store = TrialStore.create(folder, sweep)
    confirmation = {"pnd/msmarco": 9.25, "pnd/xnli": 21.0}
    store.put(
        TrialRecord(
            0,
            {},
            "complete",
            "",
            1.0,
            1.0,
            (Evaluation(0, 1.0, BASE),),
            confirmations=(Confirmation(1.0, 0.0, confirmation),),
        )
    )
    nothing = {"xnli": torch.zeros(1, 2, 2, 2, dtype=torch.bool)}
    outcomes.save(store.folder.trial(0).outcomes, Outcomes({1.0: nothing}, {"xnli": ["de", "ur"]}))
    return store


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    return in_folder(tmp_path / "s", SWEEP)


def trial(**changes: Any) -> TrialRecord:
    """A trial that is feasible when it is halved, confirmed, and trained again with three seeds."""
    record = TrialRecord(
        7,
        {"learning_rate": 1e-6, "epochs": 2},
        "complete",
        points=(Evaluation(8, 1.0, metrics(13.4, 0.6)),),
        worst="neutral/de/ur",
        scaled=(Candidate(0.5, metrics(9.9, -0.3), WORST),),
        confirmations=checked(metrics(8.8, -0.2), 0.5),
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


def test_the_card_says_what_was_done_and_what_came_of_it(store: TrialStore) -> None:
    front, body = split(card.render(store, trial()))
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


def test_warnings_are_loud(store: TrialStore) -> None:
    assert "> **NOT CONFIRMED.**" in card.render(store, trial(confirmations=(), repeats=()))
    assert "with other seeds" not in card.render(store, trial(repeats=()))
    refuted = card.render(store, trial(confirmations=checked(metrics(8.8, 0.25), 0.5)))
    assert "> **WARNING: REFUTED, EXPORTED BY FORCE.**" in refuted
    assert "is +0.25" in refuted
    forced = card.render(store, trial(scaled=(), confirmations=()))
    assert "> **WARNING: INFEASIBLE, EXPORTED BY FORCE.**" in forced
    body = split(forced)[1]
    assert row(body, "scale of the displacement") == ["1"]
    assert row(body, "constraint")[0] == "+0.60"
    assert "neutral/de/ur" in body


def test_a_scale_has_three_digits(store: TrialStore) -> None:
    edge = Candidate(0.4216965034285822, metrics(9.9, -0.3), WORST)
    body = split(card.render(store, trial(scaled=(edge,), confirmations=())))[1]
    assert row(body, "scale of the displacement") == ["0.422"]
    assert "was scaled to 0.422." in body


def test_sets_and_languages_are_those_of_the_sweep(store: TrialStore) -> None:
    """A metric whose name looks like that of a set or of a language makes none."""
    strange = metrics(9.9, -0.3) | {"improvement/xnli/overall": 9.0, "pnd/other": 1.0, "improvement/other": 2.0}
    front, body = split(card.render(store, trial(scaled=(Candidate(0.5, strange, WORST),))))
    assert front["language"] == ["de", "ur"]
    assert not any(line.startswith("| overall |") for line in body.splitlines())
    assert "`other`" not in body


def test_unreadable_outcomes_cost_the_table_of_languages_only(store: TrialStore) -> None:
    whole = split(card.render(store, trial()))[1]
    store.folder.trial(0).outcomes.write_bytes(b"damaged")
    front, body = split(card.render(store, trial()))
    assert "language" not in front
    assert "by the language of the query" in whole
    assert "by the language of the query" not in body
    assert row(body, "selection: `xnli`") == row(whole, "selection: `xnli`")


def test_each_data_set_is_named_with_its_role(tmp_path: Path) -> None:
    path = tmp_path / "somewhere" / "train.jsonl"
    source = config.Source(path=str(path), name="all", split="dev[:9]", revision="r1", limit=7)
    body = split(card.render(in_folder(tmp_path / "s", changed(source)), trial()))[1]
    assert row(body, "training") == ["`train.jsonl, name all, split dev[:9], revision r1, limit 7`"]
    assert row(body, "selection, xnli") == ["`facebook/xnli`"]
    assert row(body, "confirmation, msmarco") == ["`org/msmarco`"]


def changed(data: config.Source, **model: Any) -> config.Sweep:
    """The sweep on other training data, and with other values for some of the model's fields."""
    train = dataclasses.replace(SWEEP.train, data=data)
    return dataclasses.replace(SWEEP, train=train, model=dataclasses.replace(SWEEP.model, **model))


def test_what_comes_from_outside_breaks_nothing(tmp_path: Path) -> None:
    hostile = 'a|b\n---\n# not a heading: "x" `y` <script>alert(1)</script> {{ "x" * 7 }}'
    data, prompts = config.Source(path=hostile, split=hostile), config.Sides(query=hostile, passage="p|q\n")
    store = in_folder(tmp_path / "hostile", changed(data, name=hostile, revision=hostile, prompts=prompts))
    text = card.render(store, trial(config={"freeze": hostile}, worst=hostile, scaled=()))
    front, body = split(text)
    assert front.get("base_model", hostile) == hostile
    assert not any(line.startswith("# not") for line in body.splitlines())
    assert body.count("\n---\n") == 0
    assert '{{ "x" * 7 }}' in body
    assert "xxxxxxx" not in body
    (line,) = [line for line in body.splitlines() if line.startswith("| `freeze`")]
    assert line.replace("\\|", "").count("|") == 3


def test_a_local_base_model_is_named_by_its_folder_only(tmp_path: Path) -> None:
    sweep = changed(SWEEP.train.data, name="/home/somebody/models/e5", revision=None)
    front, body = split(card.render(in_folder(tmp_path / "local", sweep), trial()))
    assert "base_model" not in front
    assert "somebody" not in body
    assert row(body, "base model") == ["`e5`"]
    assert row(body, "revision") == ["`not pinned`"]
