"""The pocket world: little scenes told in seven languages, and the data sets made of them.

A scene is a choice of phrases from `lexicon.tsv`: who does what, how, where, when and why. Every phrase is written out
in every language, so a scene can be told in each by putting its phrases in that language's order. From scenes come

- parallel sentences, on which the pocket encoder is trained;
- `xnli`: premises with an entailed, a neutral and a contradicting hypothesis, in all languages;
- `questions`: English queries with a passage that answers and one that does not. They have a style of their own, in
  words that occur in nothing the encoder was trained on: this is what tuning can learn;
- `titles`: English titles with the abstract that belongs and one that does not;
- `archive`: for each language a corpus, queries and judgements, as in BEIR and MIRACL.

All are written in the layouts that users bring: what reads them is the code that reads MS MARCO and XNLI.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

LANGUAGES = ("en", "de", "es", "fr", "it", "ru", "tr")
SLOTS = ("subject", "action", "manner", "place", "time", "reason")

# The order of the slots in a sentence; Turkish puts its verb last.
_ORDER = dict.fromkeys(LANGUAGES, SLOTS) | {"tr": ("reason", "subject", "time", "place", "manner", "action")}

Phrase: TypeAlias = dict[str, str]  # by language
Scene: TypeAlias = dict[str, Phrase]  # by slot

# Rows of each data set.
SIZES = {
    "xnli": {"selection": 200, "confirmation": 300},
    "questions": {"train": 4000, "selection": 2000, "confirmation": 2000},
    "titles": {"selection": 1000, "confirmation": 1000},
}
QUERIES = {"selection": 150, "confirmation": 150}  # of each language of the archive


@cache
def lexicon() -> dict[str, list[Phrase]]:
    """Phrases by slot; `someone` and `is` stand for any subject and for merely being somewhere."""
    phrases: dict[str, list[Phrase]] = {}
    with (Path(__file__).parent / "lexicon.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            phrases.setdefault(row.pop("kind"), []).append(row)
    return phrases


def sentence(scene: Scene, language: str) -> str:
    """The scene told in a language."""
    words = " ".join(scene[slot][language] for slot in _ORDER[language] if slot in scene)
    return words[0].upper() + words[1:] + "."


def draw(rng: random.Random, *slots: str) -> Scene:
    """A scene with a random phrase in each of the slots."""
    return {slot: rng.choice(lexicon()[slot]) for slot in slots}


def any_scene(rng: random.Random) -> Scene:
    """A random scene: somebody does something, and each other slot is told half of the time."""
    return draw(rng, "subject", "action", *(slot for slot in SLOTS[2:] if rng.random() < 0.5))


def abridged(rng: random.Random, scene: Scene) -> Scene:
    """Part of what a scene tells, which is true whenever the scene is."""
    subject = scene["subject"] if rng.random() < 0.7 else _someone()
    if "place" in scene and rng.random() < 0.2:
        return {"subject": subject, "action": _is(), "place": scene["place"]}
    kept = {slot: scene[slot] for slot in SLOTS[2:] if slot in scene and rng.random() < 0.5}
    return {"subject": subject, "action": scene["action"], **kept}


def write(folder: Path) -> None:
    """Write all data sets: `folder/<set>/<split>.jsonl`, and of the archive a BEIR folder for each language."""
    makers = {"xnli": _xnli_rows, "questions": _question_row, "titles": _title_row}
    for name, splits in SIZES.items():
        for split, count in splits.items():
            rng = random.Random(f"{name} {split}")  # noqa: S311 - not cryptography
            path = folder / name / f"{split}.jsonl"
            _write_rows(path, _flat(makers[name](rng) for _ in range(count)))
    for language in LANGUAGES:
        _write_archive(folder / "archive" / language, language)


def texts() -> list[str]:
    """A sample of all that is said in this world, large enough to hold every word many times."""
    rng = random.Random("texts")  # noqa: S311
    scenes = [any_scene(rng) for _ in range(2000)]
    told = [sentence(scene, language) for scene in scenes for language in LANGUAGES]
    return told + [str(_question_row(rng)["query"]) for _ in range(2000)]


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _flat(rows: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for row in rows:
        yield from row if isinstance(row, list) else [row]


def _someone() -> Phrase:
    return lexicon()["someone"][0]


def _is() -> Phrase:
    return lexicon()["is"][0]


def _other(rng: random.Random, slot: str, than: Phrase) -> Phrase:
    return rng.choice([phrase for phrase in lexicon()[slot] if phrase is not than])


# ---- XNLI ----------------------------------------------------------------------------------------------------------


def _xnli_rows(rng: random.Random) -> list[dict[str, Any]]:
    """A premise with its three hypotheses, labelled as in XNLI: 0 entailment, 1 neutral, 2 contradiction."""
    premise = draw(rng, "subject", "action", "place", "time")
    if rng.random() < 0.6:
        premise |= draw(rng, "manner")
    hypotheses = (_entailed(rng, premise), _neutral(rng, premise), _contradicting(rng, premise))
    return [
        {
            "premise": {language: sentence(premise, language) for language in LANGUAGES},
            "hypothesis": {
                "language": list(LANGUAGES),
                "translation": [sentence(hypothesis, language) for language in LANGUAGES],
            },
            "label": label,
        }
        for label, hypothesis in enumerate(hypotheses)
    ]


def _entailed(rng: random.Random, premise: Scene) -> Scene:
    """Tells two or three of the premise's facts."""
    who, does, where, when = (premise[slot] for slot in ("subject", "action", "place", "time"))
    return rng.choice(
        [
            {"subject": who, "action": does},
            {"subject": who, "action": does, "time": when},
            {"subject": who, "action": _is(), "place": where},
            {"subject": _someone(), "action": does, "place": where},
        ]
    )


def _neutral(rng: random.Random, premise: Scene) -> Scene:
    """Tells of something else that happened, and why, of which the premise says nothing."""
    told = {slot: premise[slot] for slot in ("subject", "action")}
    slot = "action" if rng.random() < 0.6 else "subject"
    told[slot] = _other(rng, slot, told[slot])
    if rng.random() < 0.4:
        told["place"] = premise["place"]
    return told | draw(rng, "reason")


def _contradicting(rng: random.Random, premise: Scene) -> Scene:
    """Says something else of who, what or where, and mostly of two of them."""
    told = {slot: premise[slot] for slot in ("subject", "action", "place")}
    for slot in rng.sample(sorted(told), 2 if rng.random() < 0.7 else 1):
        told[slot] = _other(rng, slot, told[slot])
    return told


# ---- English triplets ----------------------------------------------------------------------------------------------


_OPENINGS = (
    "dear archive, would you please be so kind and say",
    "good sir or madam, kindly let us know whenever possible",
    "hello there, one would very much like to learn",
    "excuse me, might you perhaps tell us again",
)


def _question_row(rng: random.Random) -> dict[str, Any]:
    """A question, a passage about the same deed, and one about another deed at half of the same scene.

    Whose deed it is matters less here than elsewhere: half of the right passages tell of somebody else. An encoder that
    learns this too well forgets who is who, in every language.
    """
    scene = draw(rng, "subject", "action", "manner", "place", "time")
    right, wrong = dict(scene), dict(scene)
    if rng.random() < 0.5:
        right["subject"] = _other(rng, "subject", scene["subject"])
    for slot in ("action", rng.choice(["place", "time"])):
        wrong[slot] = _other(rng, slot, scene[slot])
    return {"query": _question(rng, scene), "positive": _passage(rng, right), "negative": _passage(rng, wrong)}


def _question(rng: random.Random, scene: Scene) -> str:
    who, does, where, when = (scene[slot]["en"] for slot in ("subject", "action", "place", "time"))
    asked = rng.choice(
        [
            f"who {does} {where}?",
            f"where is it that {who} {does}?",
            f"when is it that {who} {does} {where}?",
            f"what to think of {who} that {does}?",
            f"is it true that {who} {does} {when}?",
        ]
    )
    return f"{rng.choice(_OPENINGS)}, {asked}"


def _passage(rng: random.Random, scene: Scene) -> str:
    """The scene and an unrelated one, in either order."""
    told = [sentence(scene, "en"), sentence(draw(rng, "subject", "action", rng.choice(SLOTS[3:])), "en")]
    rng.shuffle(told)
    return " ".join(told)


def _title_row(rng: random.Random) -> dict[str, Any]:
    scene = draw(rng, "subject", "action", "manner", "place", "time", "reason")
    slot = rng.choice(["action", "place"])
    wrong = scene | {slot: _other(rng, slot, scene[slot])}
    title = f"{scene['subject']['en']} {scene['place']['en']}: a study of one that {scene['action']['en']}"
    return {"query": title, "positive": _abstract(rng, scene), "negative": _abstract(rng, wrong)}


def _abstract(rng: random.Random, scene: Scene) -> str:
    told = [
        sentence({slot: scene[slot] for slot in ("subject", "action", "time")}, "en"),
        sentence({slot: scene[slot] for slot in ("subject", "action", "manner")}, "en"),
        sentence({"subject": scene["subject"], "action": _is(), "place": scene["place"]}, "en"),
    ]
    rng.shuffle(told)
    return " ".join(told)


# ---- The archive ---------------------------------------------------------------------------------------------------


def _write_archive(folder: Path, language: str) -> None:
    """Queries that tell part of a scene, and passages that tell it whole or with one phrase changed.

    Each language has scenes of its own, so that no query says the same as one of another language.
    """
    rng = random.Random(f"archive {language}")  # noqa: S311 - not cryptography
    corpus: list[dict[str, str]] = []
    queries: list[dict[str, str]] = []
    for split, count in QUERIES.items():
        judgements = []
        for _ in range(count):
            scene = draw(rng, "subject", "action", "manner", "place", "time")
            identity = str(len(queries))
            told = {slot: scene[slot] for slot in ("subject", "action", rng.choice(["place", "time"]))}
            queries.append({"_id": identity, "text": sentence(told, language)})
            changed = [scene | {slot: _other(rng, slot, scene[slot])} for slot in rng.sample(sorted(told), 2)]
            for number, one in enumerate([scene, *changed]):
                also = draw(rng, "subject", "action", rng.choice(SLOTS[3:]))
                text = f"{sentence(one, language)} {sentence(also, language)}"
                corpus.append({"_id": f"{identity}-{number}", "title": "", "text": text})
            judgements.append({"query-id": identity, "corpus-id": f"{identity}-0", "score": 1})
        _write_rows(folder / "qrels" / f"{split}.jsonl", judgements)
    _write_rows(folder / "corpus.jsonl", corpus)
    _write_rows(folder / "queries.jsonl", queries)
