"""Data sets hold each text once, and go to trials without their passages."""

from __future__ import annotations

import numpy as np
import pytest

from adiabatic_ray.data import sets
from adiabatic_ray.data.sets import DataSet, Ranking, Triplets, Xnli

TEXTS = {"queries": ["a", "b"], "passages": ["c", "d", "e"]}
ROWS = np.arange(2)
BY_LANGUAGE = np.zeros((4, 2), dtype=np.int64)


def test_texts_are_numbered_in_the_order_in_which_they_come_first() -> None:
    known: dict[str, int] = {}
    assert sets.index(["b", "a", "b", ""], known) == [0, 1, 0, 2]
    assert sets.index(iter(["c", "a"]), known) == [3, 1]
    assert list(known) == ["b", "a", "", "c"]


def test_triplets_are_ranked_once_a_query() -> None:
    triplets = Triplets(
        name="t",
        queries=["a", "b", "c"],
        passages=["d", "e", "f"],
        query=np.array([2, 0, 2]),
        positive=np.array([0, 1, 1]),
        negative=np.array([1, 2, 2]),
        language=sets.Languages(["de", "en"], np.array([1, 0, 1])),
        text_language=sets.Languages(["en", "fr"], np.array([0, 0, 1])),
    )
    ranking = sets.as_ranking(triplets)
    assert (ranking.queries, ranking.passages) == (["a", "c"], ["d", "e", "f"])
    assert ranking.judgements == [{1: 1}, {0: 1, 1: 1}]
    assert ranking.language is not None
    assert ranking.language.each() == ["de", "en"]
    assert ranking.text_language is not None
    assert ranking.text_language.each() == ["en", "mixed"]
    assert ranking.identical.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (Triplets(name="t", **TEXTS, query=ROWS, positive=ROWS, negative=ROWS + 1), 2),
        (
            Xnli(
                name="x",
                languages=["de", "en"],
                **TEXTS,
                premise=BY_LANGUAGE,
                entailment=BY_LANGUAGE,
                neutral=BY_LANGUAGE,
                contradiction=BY_LANGUAGE,
            ),
            4,
        ),
        (Ranking(name="r", **TEXTS, judgements=[{0: 1}, {2: 1}], identical=np.full(2, -1)), 2),
    ],
    ids=["triplets", "xnli", "ranking"],
)
def test_a_set_without_its_passages_keeps_the_rest(data: DataSet, length: int) -> None:
    assert len(data) == length
    without = sets.without_passages(data)
    assert (type(without), without.passages, without.queries) == (type(data), [], ["a", "b"])
    assert (without.name, len(without)) == (data.name, length)
    assert data.passages == ["c", "d", "e"]
