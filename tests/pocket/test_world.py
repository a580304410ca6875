"""The pocket world: seven languages that say the same."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from adiabatic_ray import config
from adiabatic_ray.data import sets, sources
from adiabatic_ray.pocket import world


def test_lexicon_is_whole() -> None:
    phrases = [phrase for kind in world.lexicon().values() for phrase in kind]
    assert len(phrases) >= 150
    assert len(world.LANGUAGES) >= 6
    for phrase in phrases:
        assert set(phrase) == set(world.LANGUAGES)
        assert all(text and text == text.strip() for text in phrase.values()), phrase
    for kind, members in world.lexicon().items():
        for language in world.LANGUAGES:
            repeated = [text for text, count in Counter(p[language] for p in members).items() if count > 1]
            assert not repeated, f"{kind}: {repeated} says two things in {language}"


def test_sentences_in_each_order() -> None:
    pick = {kind: members[0] for kind, members in world.lexicon().items()}
    scene = {slot: pick[slot] for slot in ("subject", "action", "place", "time")}
    assert world.sentence(scene, "en") == "The teacher reads a book in the garden in the morning."
    assert world.sentence(scene, "de") == "Der Lehrer liest ein Buch im Garten am Morgen."
    assert world.sentence(scene, "tr") == "Öğretmen sabahleyin bahçede kitap okuyor."


def test_written_data_are_the_same_each_time(tmp_path: Path) -> None:
    world.write(tmp_path / "a")
    world.write(tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jsonl"))
    assert len(files) == 7 + 4 * len(world.LANGUAGES)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def read(pocket: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (pocket / name).read_text(encoding="utf-8").splitlines()]


def test_splits_share_no_question_and_no_premise(pocket: Path) -> None:
    train, selection, confirmation = (
        {row["positive"] for row in read(pocket, f"questions/{split}.jsonl")}
        for split in ("train", "selection", "confirmation")
    )
    assert not train & selection
    assert not train & confirmation
    assert not selection & confirmation
    premises = [
        {row["premise"]["en"] for row in read(pocket, f"xnli/{split}.jsonl")} for split in ("selection", "confirmation")
    ]
    assert len(premises[0] & premises[1]) <= 2


def test_hypotheses_are_what_they_are_called(pocket: Path) -> None:
    """Every word of the entailed one is in the premise, or stands for what is; the others tell something new."""
    for group in zip(*[iter(read(pocket, "xnli/selection.jsonl"))] * 3, strict=True):
        premise = set(group[0]["premise"]["en"].lower().strip(".").split())
        english = [row["hypothesis"]["translation"][0].lower().strip(".").split() for row in group]
        assert [row["label"] for row in group] == [0, 1, 2]
        assert set(english[0]) <= premise | {"someone", "is"}
        assert not set(english[1]) <= premise
        assert not set(english[2]) <= premise


def test_question_words_are_new_to_the_encoder(pocket: Path) -> None:
    told = " ".join(world.sentence(world.any_scene(random.Random(i)), "en") for i in range(3000)).lower()
    known = set(told.replace(".", " ").split())
    for word in ("please", "kindly", "who", "where", "archive"):
        assert word not in known
        assert any(word in row["query"] for row in read(pocket, "questions/train.jsonl"))


def test_each_language_of_the_archive_has_one_answer_to_a_query(pocket: Path) -> None:
    for language in world.LANGUAGES:
        source = config.Source(path=str(pocket / "archive" / language), split="confirmation")
        data = sources.load("archive", source, seed=0)
        assert isinstance(data, sets.Ranking)
        assert (len(data), len(data.passages)) == (150, 900)
        assert all(len(judged) == 1 for judged in data.judgements)
        answer = data.passages[next(iter(data.judgements[0]))]
        shared = set(answer.lower().split()) & set(data.queries[0].lower().strip(".").split())
        assert len(shared) > 2, language
