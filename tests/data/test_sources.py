"""Every layout that users bring is read, and an error says what is wrong with the rest."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import pandas as pd
import pytest
import zstandard

from adiabatic_ray import config, errors
from adiabatic_ray.data import ranking_sources, sets, sources, tables

Kind = TypeVar("Kind", sets.Triplets, sets.Xnli, sets.Ranking)

ROWS = [{"query": f"q{i}", "positive": f"p{i}", "negative": f"n{i}"} for i in range(4)]


def load(path: Path | str, kind: type[Kind], seed: int = 0, **settings: Any) -> Kind:
    """Load a source, which must be of this kind; `settings` are the other fields of `config.Source`."""
    data = sources.load("mine", config.Source(path=str(path), **settings), seed)
    assert isinstance(data, kind)
    return data


def load_triplets(path: Path | str, seed: int = 0, **settings: Any) -> sets.Triplets:
    return load(path, sets.Triplets, seed, **settings)


def load_xnli(path: Path | str, seed: int = 0, **settings: Any) -> sets.Xnli:
    return load(path, sets.Xnli, seed, **settings)


def load_ranking(path: Path | str) -> sets.Ranking:
    return load(path, sets.Ranking)


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows in the format of the file's ending."""
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix in (".jsonl", ".json"):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def triplets_of(data: sets.Triplets) -> list[tuple[str, str, str]]:
    rows = zip(data.query, data.positive, data.negative, strict=True)
    return [(data.queries[q], data.passages[p], data.passages[n]) for q, p, n in rows]


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv", "tsv"])
def test_triplets_in_every_format(tmp_path: Path, ending: str) -> None:
    data = load_triplets(write(tmp_path / f"t.{ending}", ROWS))
    assert triplets_of(data) == [("q0", "p0", "n0"), ("q1", "p1", "n1"), ("q2", "p2", "n2"), ("q3", "p3", "n3")]


def test_repeated_texts_are_held_once(tmp_path: Path) -> None:
    rows = [{"query": "q", "positive": "p", "negative": "n"}, {"query": "q", "positive": "n", "negative": "p"}]
    data = load_triplets(write(tmp_path / "t.jsonl", rows))
    assert (data.queries, data.passages) == (["q"], ["p", "n"])
    assert triplets_of(data) == [("q", "p", "n"), ("q", "n", "p")]


def test_column_names_of_the_users_own(tmp_path: Path) -> None:
    rows = [{"frage": "q", "richtig": "p", "falsch": "n"}]
    columns = {"query": "frage", "positive": "richtig", "negative": "falsch"}
    assert triplets_of(load_triplets(write(tmp_path / "t.csv", rows), columns=columns)) == [("q", "p", "n")]


def test_tab_separated_texts_may_hold_bare_quotes(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('query\tpositive\tnegative\n5" pipe\tsays "so\tnone\n')
    assert triplets_of(load_triplets(path)) == [('5" pipe', 'says "so', "none")]


def test_words_that_look_like_missing_values_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("query,positive,negative\nNA,null,nan\n12,3.0,true\n")
    assert triplets_of(load_triplets(path)) == [("NA", "null", "nan"), ("12", "3.0", "true")]


def test_numbers_and_lists_of_one_are_texts(tmp_path: Path) -> None:
    rows = [
        {"query": 7, "positive": ["p"], "negative": 2.5},
        {"query": True, "positive": ["p"], "negative": 1.0},  # not a number
    ]
    path = tmp_path / "t.parquet"
    for number, row in enumerate(rows):
        pd.DataFrame([row]).to_parquet(path)
        if number == 0:
            assert triplets_of(load_triplets(path)) == [("7", "p", "2.5")]
            continue
        with pytest.raises(errors.DataError, match=r"no usable row \(1 with an empty or missing"):
            load_triplets(path)


def test_a_positive_that_is_its_own_negative_is_dropped(tmp_path: Path) -> None:
    data = load_triplets(write(tmp_path / "t.jsonl", [*ROWS, {"query": "q", "positive": "p", "negative": "p"}]))
    assert (len(data), data.dropped) == (4, {"a `positive` that equals its `negative`": 1})


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json", "csv", "tsv"])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    path.touch()
    with pytest.raises(errors.DataError, match=f"^mine: {path} is empty.$"):
        load_triplets(path)


@pytest.mark.parametrize(
    ("name", "content"), [("t.csv", "query,positive,negative\n"), ("t.jsonl", "\n"), ("t.json", "[]")]
)
def test_a_file_without_rows_is_said_to_have_none(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(errors.DataError, match="it has no rows"):
        load_triplets(path)


def test_hub_layout_in_a_folder_with_splits_and_slices(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00001.parquet", ROWS)
    write(tmp_path / "dev-00000-of-00001.parquet", ROWS[:2])
    assert len(load_triplets(tmp_path, split="train[:50%]")) == 2
    assert triplets_of(load_triplets(tmp_path, split="validation[1:]")) == [("q1", "p1", "n1")]
    with pytest.raises(errors.DataError, match=r"has the splits \['train', 'validation'\]; choose one with `split`"):
        load_triplets(tmp_path)
    with pytest.raises(errors.DataError, match=r'Unknown split "test"'):
        load_triplets(tmp_path, split="test")


def test_hub_layout_of_ids_beside_queries_and_corpus(tmp_path: Path) -> None:
    """As in `sentence-transformers/msmarco`: triplets of ids, texts in the subsets `queries` and `corpus`."""
    subsets = {
        "triplets": [
            {"query_id": "7", "positive_id": "1", "negative_id": "2"},
            {"query_id": "8", "positive_id": "2", "negative_id": "9"},  # there is no passage 9
        ],
        "queries": [{"query_id": "7", "query": "seven"}, {"query_id": "8", "query": "eight"}],
        "corpus": [{"passage_id": "1", "passage": "one"}, {"passage_id": "2", "passage": "two"}],
    }
    lines = ["---", "configs:"]
    for name, rows in subsets.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train-0.parquet", rows)
        lines += [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {name}/train-*"]
    (tmp_path / "README.md").write_text("\n".join([*lines, "---", ""]))
    data = load_triplets(tmp_path, name="triplets", split="train")
    assert triplets_of(data) == [("seven", "one", "two")]
    assert data.dropped == {"an empty or missing `negative`": 1}


def test_limit_draws_at_random_with_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"query": f"q{i}", "positive": "p", "negative": "n"} for i in range(100)])
    drawn = [load_triplets(path, seed=seed, limit=10).queries for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 10
    assert drawn[0] != [f"q{i}" for i in range(10)]


def test_empty_and_missing_texts_are_counted(tmp_path: Path) -> None:
    bad: list[dict[str, str | None]] = [
        {"query": " ", "positive": "p", "negative": "n"},
        {"query": "q", "positive": "p", "negative": None},
    ]
    data = load_triplets(write(tmp_path / "t.jsonl", [*ROWS, *bad, bad[1]]))
    assert len(data) == 4
    assert data.dropped == {"an empty or missing `query`": 1, "an empty or missing `negative`": 2}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"query": "a", "negative": "b"}\n', r"lacks the column `positive`; it has `query`, `negative`"),
        (
            "t.jsonl",
            b'{"query": "a", "positive": "b", "negative": ""}\n',
            r"no usable row \(1 with an empty or missing",
        ),
        (
            "t.csv",
            "query,positive,negative\nMüller,a,b\n".encode("latin-1"),
            r"is not UTF-8 text .* convert it to UTF-8",
        ),
        ("t.jsonl", b'{"query": "a", \n', r"cannot read .*t.jsonl"),
        ("t.parquet", b"not parquet", r"cannot read .*t.parquet"),
        ("t.txt", b"a", r"has an unknown type; expected a file ending in .parquet, .jsonl"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.DataError, match=message) as failure:
        load_triplets(tmp_path / name)
    assert str(failure.value).startswith("mine: ")


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbfquery,positive,negative\na,b,c\n")
    assert load_triplets(tmp_path / "bom.csv").queries == ["a"]


def test_paths_that_are_nowhere(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match=r"none.csv does not exist"):
        load_triplets(tmp_path / "none.csv")
    with pytest.raises(errors.DataError, match=r"justaname does not exist, and is no hub id, which would have the"):
        load_triplets("justaname")
    assert tables.is_hub_id("facebook/xnli")
    assert not any(map(tables.is_hub_id, ["./xnli", "data/x.csv", "/data/xnli", "a/b/c", str(tmp_path)]))


class Hypothesis(TypedDict):
    language: list[str]
    translation: list[str]


class Pair(TypedDict):
    """A row of `facebook/xnli`, `all_languages`."""

    premise: dict[str, str] | None
    hypothesis: Hypothesis | None
    label: int


def xnli_rows(premise: str, labels: tuple[int, ...] = (0, 1, 2)) -> list[Pair]:
    return [
        {
            "premise": {"de": f"{premise} de", "en": f"{premise} en"},
            "hypothesis": {"language": ["en", "de"], "translation": [f"{premise} {label} en", f"{premise} {label} de"]},
            "label": label,
        }
        for label in labels
    ]


def test_xnli_groups_rows_by_premise(tmp_path: Path) -> None:
    data = load_xnli(write(tmp_path / "x.jsonl", [*xnli_rows("a", (2, 0, 1)), *xnli_rows("b")]))
    assert data.languages == ["de", "en"]
    assert [[data.queries[i] for i in row] for row in data.premise] == [["a de", "a en"], ["b de", "b en"]]
    for label, name in enumerate(("entailment", "neutral", "contradiction")):
        texts = [[data.passages[i] for i in row] for row in getattr(data, name)]
        assert texts == [[f"a {label} de", f"a {label} en"], [f"b {label} de", f"b {label} en"]]


def test_xnli_in_chosen_languages_and_premises(tmp_path: Path) -> None:
    rows = [row for premise in "abcdefgh" for row in xnli_rows(premise)]
    data = load_xnli(write(tmp_path / "x.jsonl", rows), languages=["en"], limit=3)
    assert data.premise.shape == (3, 1)
    with pytest.raises(errors.DataError, match=r"lacks the languages \['fr'\]; it has \['de', 'en'\]"):
        load_xnli(tmp_path / "x.jsonl", languages=["en", "fr"])


def test_xnli_drops_are_counted(tmp_path: Path) -> None:
    missing = xnli_rows("c")
    missing[0]["hypothesis"] = {"language": ["en", "de"], "translation": ["c 0 en", ""]}
    unlabelled: Pair = {**xnli_rows("d")[0], "label": -1}
    rows = [*xnli_rows("a"), *xnli_rows("b", (0, 1)), *missing, unlabelled, xnli_rows("a")[0]]
    data = load_xnli(write(tmp_path / "x.jsonl", rows))
    assert len(data) == 1
    assert data.dropped == {
        "a label other than 0, 1 and 2": 1,
        "a second hypothesis of the same label": 1,
        "a premise that lacks one of its three hypotheses": 2,
        "a text missing in one of the languages": 3,
    }


def test_xnli_keeps_the_order_of_its_premises(tmp_path: Path) -> None:
    """Premises come in the order of their first pair that has a label."""
    pairs = [pair for premise in "zyx" for pair in xnli_rows(premise)]
    unlabelled: Pair = {**xnli_rows("a")[0], "label": -1}
    without_premise: list[Pair] = [{**pair, "premise": None} for pair in xnli_rows("b")]
    without_hypothesis: Pair = {**xnli_rows("x")[1], "hypothesis": None}  # the second of its label
    rows = [unlabelled, *without_premise, pairs[0], *pairs[:2:-1], *pairs[1:3], *xnli_rows("a"), without_hypothesis]
    data = load_xnli(write(tmp_path / "x.jsonl", rows))
    assert data.queries == [f"{premise} {language}" for premise in "zxya" for language in ("de", "en")]
    passages = [f"{p} {label} {language}" for p in "zxya" for label in range(3) for language in ("de", "en")]
    assert data.passages == passages
    assert data.premise.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert data.contradiction.tolist() == [[4, 5], [10, 11], [16, 17], [22, 23]]
    assert data.dropped == {
        "a label other than 0, 1 and 2": 1,
        "a second hypothesis of the same label": 1,
        "a text missing in one of the languages": 3,
    }


def test_xnli_tells_premises_apart_by_language(tmp_path: Path) -> None:
    """Texts that differ only in where a line ends are two premises, of which each lacks a hypothesis here."""
    pairs = xnli_rows("a")
    pairs[0]["premise"] = pairs[1]["premise"] = {"de": "x\ny", "en": "z"}
    pairs[2]["premise"] = {"de": "x", "en": "y\nz"}
    data = load_xnli(write(tmp_path / "x.jsonl", [*pairs, *xnli_rows("b")]))
    assert data.queries == ["b de", "b en"]
    assert data.dropped == {"a premise that lacks one of its three hypotheses": 3}


def test_xnli_one_row_a_language(tmp_path: Path) -> None:
    """The layout of XNLI's own TSV files."""
    labels = ("neutral", "contradiction", "entailment")
    rows = [
        {"language": x, "gold_label": label, "sentence1": f"{p} {x}", "sentence2": f"{p} {label} {x}", "promptID": i}
        for x in ("en", "de")
        for i, p in ((8, "a"), (3, "b"))
        for label in labels
    ]
    columns = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label", "id": "promptID"}
    data = load_xnli(write(tmp_path / "x.tsv", rows), columns=columns)
    assert data.languages == ["de", "en"]
    assert [[data.queries[i] for i in row] for row in data.premise] == [["a de", "a en"], ["b de", "b en"]]
    for label in labels:
        texts = [[data.passages[i] for i in row] for row in getattr(data, label)]
        assert texts == [[f"a {label} de", f"a {label} en"], [f"b {label} de", f"b {label} en"]]
    # A language counts as present where only some premises have it; the others are dropped, and counted.
    lacking = [row for row in rows if row["language"] == "en" or row["promptID"] == 3]
    data = load_xnli(write(tmp_path / "z.tsv", lacking), columns=columns)
    assert (data.languages, len(data)) == (["de", "en"], 1)
    assert data.dropped == {"a text missing in one of the languages": 3}
    # Annotators did not agree on some pairs; several of them may share an id.
    undecided = [row | {"gold_label": "-", "promptID": 5} for row in rows]
    data = load_xnli(write(tmp_path / "u.tsv", [*undecided, *rows]), columns=columns)
    assert (len(data), data.dropped) == (2, {"a label other than 0, 1 and 2": 1})
    write(tmp_path / "y.tsv", [row | {"promptID": 0} for row in rows])
    with pytest.raises(errors.DataError, match=r"two pairs of the label 'neutral' in en under the id 0"):
        load_xnli(tmp_path / "y.tsv", columns=columns)


def test_xnli_of_one_language_is_refused(tmp_path: Path) -> None:
    rows = [{"premise": "a", "hypothesis": "b", "label": 0}]
    with pytest.raises(errors.DataError, match=r"holds one language; expected premises in several"):
        load_xnli(write(tmp_path / "x.jsonl", rows))


def beir(folder: Path, *, nested: bool = False, ending: str = "jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    write(
        folder / f"corpus.{ending}",
        [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "title": "", "text": "two"}],
    )
    write(folder / f"queries.{ending}", [{"_id": "q1", "text": "first"}, {"_id": "d2", "text": "second"}])
    judged = [
        {"query-id": q, "corpus-id": d, "score": s} for q, d, s in [("q1", "d1", 2), ("q1", "d2", 0), ("d2", "d1", 1)]
    ]
    (folder / "qrels").mkdir(exist_ok=True)
    write(folder / "qrels" / "test.tsv" if nested else folder / f"qrels.{ending}", judged)
    return folder


@pytest.mark.parametrize(("nested", "ending"), [(True, "jsonl"), (False, "parquet")])
def test_beir_folder(tmp_path: Path, nested: bool, ending: str) -> None:
    data = load_ranking(beir(tmp_path / "b", nested=nested, ending=ending))
    assert isinstance(data, sets.Ranking)
    assert (data.queries, data.passages) == (["first", "second"], ["T one", "two"])
    assert data.judgements == [{0: 2, 1: 0}, {0: 1}]
    assert data.identical.tolist() == [-1, 1]


def test_a_passage_with_the_querys_own_id_counts_where_it_is_the_answer(tmp_path: Path) -> None:
    """Queries and passages may be numbered alike: 7 is answered by 7. It says how many passages are left out."""
    folder = tmp_path / "b"
    folder.mkdir()
    for stem in ("corpus", "queries"):
        write(folder / f"{stem}.parquet", [{"_id": number, "text": f"{stem} {number}"} for number in range(4)])
    judged = [(0, 0, 1), (1, 1, 2), (2, 3, 1), (2, 2, 0)]
    write(folder / "qrels.parquet", [{"query-id": float(q), "corpus-id": d, "score": g} for q, d, g in judged])
    data = load_ranking(folder)
    assert data.judgements == [{0: 1}, {1: 2}, {3: 1, 2: 0}]
    assert data.identical.tolist() == [-1, -1, 2]
    assert data.dropped["the query's own id (passages, each left out of its query's ranking)"] == 1


def test_beir_faults(tmp_path: Path) -> None:
    folder = beir(tmp_path / "b")
    write(folder / "qrels.jsonl", [{"query-id": "q1", "corpus-id": d, "score": 1} for d in ("d1", "d9")])
    data = load_ranking(folder)
    assert data.dropped == {"a judgement of an unknown passage": 1, "a query without a relevant passage": 1}
    twice = [{"query-id": "q1", "corpus-id": "d1", "score": score} for score in ("1.0", "2.0")]
    write(folder / "qrels.jsonl", twice)
    assert load_ranking(folder).judgements == [{0: 1}]
    assert load_ranking(folder).dropped["a second judgement of the same pair"] == 1
    write(folder / "corpus.jsonl", [{"_id": "d1", "text": "one"}, {"_id": "d1", "text": "uno"}])
    with pytest.raises(errors.DataError, match=r"two different texts under the id 'd1'; ids must be unique"):
        load_ranking(folder)
    write(folder / "corpus.jsonl", [{"_id": "d1", "text": "one"}, {"_id": "d1", "text": "one"}])
    assert load_ranking(folder).dropped["an id and text given twice in `corpus`"] == 1
    (folder / "queries.jsonl").unlink()
    with pytest.raises(errors.DataError, match=r"looks like a BEIR folder but lacks `queries`"):
        load_ranking(folder)


def test_real_layouts(real_data: Path) -> None:
    assert len(load_triplets(real_data / "msmarco", split="train")) == 11_992
    assert len(load_xnli(real_data / "xnli", name="all_languages", split="test")) == 1_670
    assert len(load_triplets(real_data / "arxiv")) == 6_000
    assert len(load_ranking(real_data / "dl19")) == 43


def test_triplets_may_have_languages(tmp_path: Path) -> None:
    rows = [{**row, "language": language} for row, language in zip(ROWS, ["sw", "en", "sw", "ar"], strict=True)]
    data = load_triplets(write(tmp_path / "t.jsonl", rows))
    assert data.languages == ["ar", "en", "sw"]
    assert data.language is not None
    assert data.language.each() == ["sw", "en", "sw", "ar"]
    some = load_triplets(tmp_path / "t.jsonl", languages=["sw", "ar"])
    assert (some.languages, [some.queries[i] for i in some.query]) == (["ar", "sw"], ["q0", "q2", "q3"])
    plain = load_triplets(write(tmp_path / "plain.jsonl", ROWS))
    assert (plain.languages, plain.language) == ([], None)
    with pytest.raises(errors.DataError, match=r"lacks the languages \['fr'\]; it has \['ar', 'en', 'sw'\]"):
        load_triplets(tmp_path / "t.jsonl", languages=["fr"])


def test_passages_of_triplets_may_be_in_other_languages(tmp_path: Path) -> None:
    spoken, written = ["sw", "en", None, "ar"], ["en", "en", "en", ""]
    rows = [{**row, "lang": x, "of_text": y} for row, x, y in zip(ROWS, spoken, written, strict=True)]
    columns: dict[config.Column, str] = {"language": "lang", "text_language": "of_text"}
    data = load_triplets(write(tmp_path / "t.jsonl", rows), columns=columns)
    assert data.language is not None
    assert data.text_language is not None
    assert data.language.each() == ["sw", "en", "unknown", "ar"]  # a row without one stays in its place
    assert data.text_language.each() == ["en", "en", "en", "unknown"]
    some = load_triplets(tmp_path / "t.jsonl", columns=columns, languages=["sw", "ar"])
    assert some.text_language is not None
    assert some.text_language.each() == ["en", "unknown"]
    same = [{**row, "language": "sw", "text_language": "sw"} for row in ROWS]
    assert load_triplets(write(tmp_path / "same.jsonl", same)).text_language is None  # it adds nothing


def in_language(folder: Path, word: str, count: int, written: str = "", **column: list[str]) -> Path:
    """A BEIR folder of `count` queries, each answered by the passage of its number, in the language `written`."""
    folder.mkdir(parents=True)
    numbers, corpus = range(count), {"language": written} if written else {}
    passages = [{"_id": f"d{i}", "title": "", "text": f"{word} passage {i}", **corpus} for i in numbers]
    write(folder / "corpus.jsonl", passages)
    write(
        folder / "queries.jsonl",
        [{"_id": f"q{i}", "text": f"{word} query {i}", **{key: v[i] for key, v in column.items()}} for i in numbers],
    )
    qrels = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in numbers]
    write(folder / "qrels.tsv", qrels)
    return folder


def test_queries_of_a_beir_folder_may_have_languages(tmp_path: Path) -> None:
    folder = in_language(tmp_path / "b", "any", 3, language=["sw", "en", "sw"])
    data = load_ranking(folder)
    assert data.language is not None
    assert data.language.each() == ["sw", "en", "sw"]
    assert data.text_language is None
    assert data.ranges is None  # all languages are searched for in one corpus
    assert load(folder, sets.Ranking, languages=["en"]).queries == ["any query 1"]


def test_passages_of_a_corpus_may_be_in_other_languages(tmp_path: Path) -> None:
    folder = in_language(tmp_path / "b", "any", 3, language=["sw", "en", "sw"])
    corpus = [{"_id": f"d{i}", "text": f"passage {i}", "language": one} for i, one in enumerate(["en", "en", "fr"])]
    write(folder / "corpus.jsonl", corpus)
    judged = [("q0", "d0", 1), ("q0", "d2", 0), ("q1", "d1", 1), ("q2", "d2", 1), ("q2", "d0", 2)]
    write(folder / "qrels.tsv", [dict(zip(("query-id", "corpus-id", "score"), one, strict=True)) for one in judged])
    data = load_ranking(folder)
    assert data.text_language is not None
    assert data.text_language.each() == ["en", "en", "mixed"]  # of those that are relevant
    assert data.ranges is None  # all are still searched


def test_folders_in_languages_may_have_a_corpus_in_another(tmp_path: Path) -> None:
    in_language(tmp_path / "clir" / "sw", "sw", 2, written="en")
    in_language(tmp_path / "clir" / "ar", "ar", 1)
    data = load_ranking(tmp_path / "clir")
    assert data.language is not None
    assert data.text_language is not None
    assert data.language.each() == ["ar", "sw", "sw"]
    assert data.text_language.each() == ["ar", "en", "en"]
    in_language(tmp_path / "miracl" / "sw", "sw", 2, written="sw")
    assert load_ranking(tmp_path / "miracl").text_language is None


def test_a_folder_of_beir_folders_is_one_set_in_several_languages(tmp_path: Path) -> None:
    in_language(tmp_path / "miracl" / "bn", "bn", 2)
    in_language(tmp_path / "miracl" / "ar", "ar", 3)
    data = load_ranking(tmp_path / "miracl")
    assert data.languages == ["ar", "bn"]
    assert data.language is not None
    assert data.language.each() == ["ar", "ar", "ar", "bn", "bn"]
    assert data.text_language is None
    assert data.ranges is not None
    assert data.ranges.tolist() == [[0, 3]] * 3 + [[3, 5]] * 2
    for query, judged in zip(data.queries, data.judgements, strict=True):
        assert [data.passages[row] for row in judged] == [query.replace("query", "passage")]
    one = load(tmp_path / "miracl", sets.Ranking, languages=["bn"])
    assert (one.languages, len(one)) == (["bn"], 2)
    with pytest.raises(errors.DataError, match=r"lacks the languages \['fr'\]; it has \['ar', 'bn'\]"):
        load(tmp_path / "miracl", sets.Ranking, languages=["fr"])


def test_a_split_of_a_beir_folder_may_name_a_part_of_its_queries(tmp_path: Path) -> None:
    folder = in_language(tmp_path / "b", "any", 6)
    halves = [load(folder, sets.Ranking, split=split) for split in ("test[:50%]", "test[50%:]")]
    assert [half.queries for half in halves] == [[f"any query {i}" for i in part] for part in (range(3), range(3, 6))]
    assert halves[0].passages == halves[1].passages
    with pytest.raises(errors.DataError, match=r"`split` 'test\[half\]' is not in the hub's notation"):
        load(folder, sets.Ranking, split="test[half]")


COLUMNS = ("query", "positive", "negative")
FEW = [("who?", "Ann.", "A tree."), ("who?", "Ann.", "Rain."), ("7", "Seven it is.", "Ann.")]


def triplet_layouts(folder: Path) -> dict[str, Path]:
    """The same three triplets in the layouts of the field. In the last five the first two are one row."""
    (a, b, c), (_, _, d), (e, f, g) = FEW
    anchors = [{"anchor": q, "positive": p, "negative": n} for q, p, n in FEW]
    numbered = [
        {"anchor": a, "positive": b, "negative_1": c, "negative_2": d},
        {"anchor": e, "positive": f, "negative_1": g, "negative_2": g},
    ]
    flag = [{"query": a, "pos": [b], "neg": [c, d]}, {"query": e, "pos": [f], "neg": [g]}]

    def passages(*texts: str) -> list[dict[str, str]]:
        return [{"docid": text, "title": text.split()[0], "text": " ".join(text.split()[1:])} for text in texts]

    tevatron = [
        {"query_id": "1", "query": a, "positive_passages": passages(b), "negative_passages": passages(c, d)},
        {"query_id": "2", "query": e, "positive_passages": passages(f), "negative_passages": passages(g)},
    ]
    texts = {q: f"q{i}" for i, q in enumerate(dict.fromkeys(q for q, _, _ in FEW))}
    passage = {text: str(i) for i, text in enumerate(dict.fromkeys(t for row in FEW for t in row[1:]))}
    msmarco = folder / "msmarco"
    msmarco.mkdir()
    lines = ["\t".join((texts[q], passage[p], passage[n])) for q, p, n in FEW]
    with gzip.open(msmarco / "qidpidtriples.train.full.2.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    (msmarco / "collection.tsv").write_text("".join(f"{i}\t{text}\n" for text, i in passage.items()))
    (msmarco / "queries.train.tsv").write_text("".join(f"{i}\t{text}\n" for text, i in texts.items()))
    (folder / "triples.train.small.tsv").write_text("\n".join("\t".join(row) for row in FEW))
    compressed = folder / "plain.jsonl.zst"
    plain = "".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in FEW)
    compressed.write_bytes(zstandard.compress(plain.encode()))
    csv_file = write(folder / "plain.csv", [dict(zip(COLUMNS, row, strict=True)) for row in FEW])
    (folder / "plain.csv.gz").write_bytes(gzip.compress(csv_file.read_bytes()))
    return {
        "anchor": write(folder / "anchor.parquet", anchors),
        "ms marco's texts": folder / "triples.train.small.tsv",
        "ms marco's ids": msmarco / "qidpidtriples.train.full.2.tsv.gz",
        "zstandard": compressed,
        "gzip": folder / "plain.csv.gz",
        "negative_1, negative_2": write(folder / "numbered.jsonl", numbered),
        "flagembedding": write(folder / "flag.jsonl", flag),
        "tevatron": write(folder / "tevatron.jsonl", tevatron),
    }


def test_each_layout_of_triplets_is_the_plain_one(tmp_path: Path) -> None:
    for layout, path in triplet_layouts(tmp_path).items():
        read = triplets_of(load_triplets(path))
        assert [row for i, row in enumerate(read) if row not in read[:i]] == FEW, layout
        if "1" not in layout:
            assert read == FEW, layout


def test_pairs_have_no_negatives(tmp_path: Path) -> None:
    pairs = load_triplets(write(tmp_path / "p.jsonl", [{"anchor": q, "positive": p} for q, p, _ in FEW]))
    assert (pairs.pairs, len(pairs), len(pairs.passages)) == (True, 3, 2)
    ranking = sets.for_evaluation(pairs)
    assert isinstance(ranking, sets.Ranking)
    assert [ranking.passages[row] for judged in ranking.judgements for row in judged] == ["Ann.", "Seven it is."]


def test_ms_marcos_own_ranking_set(tmp_path: Path) -> None:
    (tmp_path / "collection.tsv").write_text('10\tA "tree\n11\tRain\n12\tSun\n')
    (tmp_path / "queries.dev.tsv").write_text("1\twhat grows?\n2\twhat falls?\n3\tnothing judged\n")
    (tmp_path / "qrels.dev.small.tsv").write_text("1\t0\t10\t1\n2\t0\t11\t1\n2\t0\t12\t0\n")
    data = load_ranking(tmp_path / "qrels.dev.small.tsv")
    assert data.queries == ["what grows?", "what falls?"]
    assert [[data.passages[row] for row in judged] for judged in data.judgements] == [['A "tree'], ["Rain", "Sun"]]
    with pytest.raises(errors.DataError, match=r"holds MS MARCO's own files. Name the one to read"):
        load_ranking(tmp_path)
    (tmp_path / "queries.dev.tsv").unlink()
    with pytest.raises(errors.DataError, match=r"lacks `queries.dev.small.tsv`, which belongs to qrels.dev.small"):
        load_ranking(tmp_path / "qrels.dev.small.tsv")


def test_layouts_that_are_named(tmp_path: Path) -> None:
    """Files with names of their own, which say nothing of what they are."""
    paths = triplet_layouts(tmp_path)
    own = paths["ms marco's texts"].rename(tmp_path / "mine.txt")
    assert triplets_of(load_triplets(own, layout="msmarco_triples")) == FEW
    ids = tmp_path / "msmarco" / "ids.tsv"
    ids.write_bytes(gzip.decompress(paths["ms marco's ids"].read_bytes()))
    assert triplets_of(load_triplets(ids, layout="msmarco_ids")) == FEW
    with pytest.raises(errors.DataError, match=r"ids.tsv has 3 columns, and its layout has 4: `query-id`, `iteration`"):
        load(ids, sets.Ranking, layout="msmarco_qrels")
    judged = tmp_path / "msmarco" / "judged.txt"
    judged.write_text("q0 0 0 1\n".replace(" ", "\t"))
    read = load(judged, sets.Ranking, layout="msmarco_qrels")
    assert read.judgements == [{0: 1}]
    (tmp_path / "msmarco" / "queries.dev.tsv").write_text("q9\tWho?\n")
    message = r"lacks `queries.tsv`, which belongs to ids.tsv. It has `queries.dev.tsv`, `queries.train.tsv`"
    with pytest.raises(errors.DataError, match=message):
        load_triplets(ids, layout="msmarco_ids")
    with pytest.raises(errors.DataError, match=r"anchor.parquet is no data set in the layout `beir`"):
        load(paths["anchor"], sets.Ranking, layout="beir")
    with pytest.raises(errors.DataError, match=r"anchor.parquet lacks the columns `premise`, `hypothesis`, `label`"):
        load(paths["anchor"], sets.Ranking, layout="xnli")


def test_trec_judgements_in_a_beir_folder(tmp_path: Path) -> None:
    folder = in_language(tmp_path / "b", "any", 3)
    plain = load_ranking(folder)
    (folder / "qrels.tsv").unlink()
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.txt").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(3)))
    assert load_ranking(folder).judgements == plain.judgements


def test_a_repository_with_a_subset_for_each_table(tmp_path: Path) -> None:
    """The layout of MTEB's data sets on the hub."""
    folder = tmp_path / "mteb"
    plain = load_ranking(in_language(tmp_path / "b", "any", 3))
    (folder / "qrels").mkdir(parents=True)
    for stem in ("corpus", "queries"):
        (folder / f"{stem}.jsonl").write_bytes((tmp_path / "b" / f"{stem}.jsonl").read_bytes())
    write(folder / "qrels" / "test.jsonl", [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in range(3)])
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: default\n  data_files:\n  - {split: test, path: qrels/test.jsonl}\n"
        "- config_name: corpus\n  data_files:\n  - {split: corpus, path: corpus.jsonl}\n"
        "- config_name: queries\n  data_files:\n  - {split: queries, path: queries.jsonl}\n---\n"
    )
    (folder / "corpus.jsonl").rename(folder / "documents.jsonl")  # else it would be a BEIR folder
    readme = (folder / "README.md").read_text()
    (folder / "README.md").write_text(readme.replace("path: corpus.jsonl", "path: documents.jsonl"))
    data = load_ranking(folder)
    assert (data.queries, data.passages, data.judgements) == (plain.queries, plain.passages, plain.judgements)


def spoken(folder: Path) -> sets.Ranking:
    """The plain layout of what the next tests write: a BEIR folder for each language."""
    for language in ("de", "sw"):
        in_language(folder / language, language, 3)
    return load_ranking(folder)


def same(data: sets.Ranking, plain: sets.Ranking, **names: str) -> bool:
    """Whether two sets are the same, but for the names of languages."""
    assert data.ranges is not None
    assert plain.ranges is not None
    return (
        data.languages == [names.get(language, language) for language in plain.languages]
        and (data.queries, data.passages, data.judgements) == (plain.queries, plain.passages, plain.judgements)
        and data.ranges.tolist() == plain.ranges.tolist()
    )


def test_a_repository_with_subsets_for_each_language(tmp_path: Path) -> None:
    """The layout of MTEB's multilingual data sets on the hub."""
    plain = spoken(tmp_path / "beir")
    folder, configs = tmp_path / "mteb", []
    folder.mkdir()
    for language in ("de", "sw"):
        beir = tmp_path / "beir" / language
        for stem in ("corpus", "queries"):
            (folder / f"{language}-{stem}.jsonl").write_bytes((beir / f"{stem}.jsonl").read_bytes())
        judged = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in range(3)]
        write(folder / f"{language}-qrels.jsonl", judged)
        for stem in ("corpus", "queries", "qrels"):
            own, split = f"{language}-{stem}", "dev" if stem == "qrels" else stem
            configs.append(f"- config_name: {own}\n  data_files:\n  - {{split: {split}, path: {own}.jsonl}}\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    assert same(load(folder, sets.Ranking, split="dev"), plain)
    assert load(folder, sets.Ranking, split="dev", languages=["sw"]).languages == ["sw"]
    with pytest.raises(errors.DataError, match=r"lacks the languages \['fr'\]; it has \['de', 'sw'\]"):
        load(folder, sets.Ranking, split="dev", languages=["fr"])


def test_miracls_own_folders(tmp_path: Path) -> None:
    plain = spoken(tmp_path / "beir")
    for language in ("de", "sw"):
        own = f"miracl-v1.0-{language}"
        for part in (f"{own}/topics", f"{own}/qrels", f"miracl-corpus-v1.0-{language}"):
            (tmp_path / part).mkdir(parents=True)
        topics = "".join(f"q{i}\t{language} query {i}\n" for i in range(3))
        (tmp_path / own / "topics" / f"topics.{own}-dev.tsv").write_text(topics)
        judged = "".join(f"q{i}\tQ0\td{i}\t1\n" for i in range(3))
        (tmp_path / own / "qrels" / f"qrels.{own}-dev.tsv").write_text(judged)
        for number, rows in enumerate((range(2), range(2, 3))):
            texts = [json.dumps({"docid": f"d{i}", "title": "", "text": f"{language} passage {i}"}) for i in rows]
            path = tmp_path / f"miracl-corpus-v1.0-{language}" / f"docs-{number}.jsonl.gz"
            path.write_bytes(gzip.compress("\n".join(texts).encode()))
    assert same(load_ranking(tmp_path), plain)
    assert load(tmp_path, sets.Ranking, split="dev[:67%]").queries == [q for q in plain.queries if not q.endswith("2")]
    with pytest.raises(errors.DataError, match=r"topics lacks `topics.miracl-v1.0-de-train.tsv`"):
        load(tmp_path, sets.Ranking, split="train")


def test_mmarcos_own_files(tmp_path: Path) -> None:
    plain = spoken(tmp_path / "beir")
    folder = tmp_path / "google"
    for part in ("collections", "queries/dev"):
        (folder / part).mkdir(parents=True)
    names = {"de": "german", "sw": "swahili"}
    for language, name in names.items():
        collection = "".join(f"{i}\t{language} passage {i}\n" for i in range(3))
        (folder / "collections" / f"{name}_collection.tsv").write_text(collection)
        queries = "".join(f"1{i}\t{language} query {i}\n" for i in range(3))
        (folder / "queries" / "dev" / f"{name}_queries.dev.small.tsv").write_text(queries)
    with pytest.raises(errors.DataError, match=r"google lacks `qrels.dev.small.tsv`"):
        load_ranking(folder)
    (folder / "qrels.dev.small.tsv").write_text("".join(f"1{i}\t0\t{i}\t1\n" for i in range(3)))
    assert same(load_ranking(folder), plain, **names)


def test_a_corpus_alone(tmp_path: Path) -> None:
    """Passages that negatives are mined from; a text that comes twice is one."""
    texts = ["One tree", "two", "three"]
    folder = in_language(tmp_path / "b", "any", 3)
    rows = [{"_id": str(i), "title": text[:3] if i == 0 else "", "text": text[4:] if i == 0 else text}
            for i, text in enumerate([*texts, "two"])]  # fmt: skip
    write(folder / "corpus.jsonl", rows)
    table = write(tmp_path / "table.parquet", [{"text": text} for text in texts])
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "collection.tsv").write_text("".join(f"{i}\t{text}\n" for i, text in enumerate(texts)))
    for path in (folder, table, tmp_path / "m", tmp_path / "m" / "collection.tsv"):
        assert ranking_sources.corpus("corpus", config.Source(path=str(path))) == texts, path
    with pytest.raises(errors.DataError, match=r"lacks the column `text`"):
        ranking_sources.corpus("corpus", config.Source(path=str(write(tmp_path / "x.csv", ROWS))))


def one_subset_a_language(folder: Path, rows: Mapping[str, Sequence[Mapping[str, object]]]) -> Path:
    folder.mkdir()
    configs = []
    for language, own in rows.items():
        write(folder / f"{language}.jsonl", own)
        configs.append(f"- config_name: {language}\n  data_files:\n  - {{split: test, path: {language}.jsonl}}\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    return folder


def test_xnli_of_one_subset_a_language(tmp_path: Path) -> None:
    rows = {
        language: [
            {"premise": f"{language} premise {i // 3}", "hypothesis": f"{language} {i}", "label": i % 3}
            for i in range(6)
        ]
        for language in ("ar", "de", "en")
    }
    folder = one_subset_a_language(tmp_path / "xnli", rows)
    data = load_xnli(folder, languages=["de", "ar"])
    assert data.languages == ["de", "ar"]
    assert [[data.queries[row] for row in premise] for premise in data.premise] == [
        ["de premise 0", "ar premise 0"],
        ["de premise 1", "ar premise 1"],
    ]
    assert data.passages[data.contradiction[1, 1]] == "ar 5"
    with pytest.raises(errors.DataError, match=r"holds one language; expected premises in several"):
        load_xnli(folder, name="ar")
    other = one_subset_a_language(tmp_path / "other", {**rows, "ar": rows["ar"][::-1]})
    with pytest.raises(errors.DataError, match=r"subset `ar` of .* has other rows than `de`"):
        load_xnli(other, languages=["de", "ar"])


@pytest.mark.parametrize(
    ("rows", "margins"),
    [
        ([{"score": 0.5}, {"score": -1}], [0.5, -1.0]),
        ([{"label": [3.0, 1.0]}, {"label": [1.0, 2.5]}], [2.0, -1.5]),  # scores of the positive and of the negative
        ([{"score": 0.5}, {"score": None}], None),
        ([{}, {}], None),
    ],
)
def test_a_teachers_margins(tmp_path: Path, rows: list[dict[str, object]], margins: list[float] | None) -> None:
    texts = [dict(zip(COLUMNS, row, strict=True)) for row in FEW[::2]]
    path = write(tmp_path / "t.jsonl", [{**text, **row} for text, row in zip(texts, rows, strict=True)])
    read = load_triplets(path).margins
    assert (None if read is None else read.tolist()) == margins


def test_margins_of_several_negatives(tmp_path: Path) -> None:
    row = {"query": "q", "positive": "p", "negative_1": "m", "negative_2": "n"}
    for score in ([1.0, 2.0], [5.0, 4.0, 3.0]):  # margins, or the scores of all three
        data = load_triplets(write(tmp_path / f"{len(score)}.jsonl", [{**row, "score": score}]))
        assert data.margins is not None
        assert data.margins.tolist() == [1.0, 2.0]
        assert data.first.tolist() == [0]


def test_each_positive_of_a_row_is_an_example_with_all_its_negatives(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "pos": ["p", "o"], "neg": ["m", "n"]},
        {"query": "b", "pos": ["p"], "neg": ["m"]},
        {"query": "c", "pos": ["p"], "neg": ["p", "n"]},  # of which one is dropped
    ]
    data = load_triplets(write(tmp_path / "flag.jsonl", rows))
    assert [data.passages[i] for i in data.positive] == ["p", "p", "o", "o", "p", "p"]
    assert data.first.tolist() == [0, 2, 4, 5]
