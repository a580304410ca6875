"""The layouts of XNLI: nested by language, one row for each pair and language, or one subset for each language."""

from __future__ import annotations

import dataclasses

import datasets
import numpy as np
import numpy.typing as npt
import pandas as pd

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets, tables

COLUMNS = ("premise", "hypothesis", "label")
FLAT_COLUMNS: tuple[config.Column, ...] = ("language", "premise", "hypothesis", "label", "id")
LABELS = ("entailment", "neutral", "contradiction")
_LABEL_NUMBERS = {str(key): i for i, label in enumerate(LABELS) for key in (i, label)}


def of_subsets(name: str, source: config.Source, languages: list[str], seed: int) -> sets.Xnli:
    """XNLI from one subset a language, as `facebook/xnli` has them beside `all_languages`.

    Raises:
        DataError: the subsets do not hold the same pairs in the same order.
    """
    one = {language: dataclasses.replace(source, name=language, languages=None) for language in languages}
    read = {language: tables.read(f"{name} ({language})", subset) for language, subset in one.items()}
    first = next(iter(read.values()))
    for language, rows in read.items():
        tables.require_columns(f"{name} ({language})", source.path, rows.column_names, COLUMNS)
        if rows["label"][:] != first["label"][:]:
            raise errors.DataError(
                f"{name}: the subset `{language}` of {source.path} has other rows than `{languages[0]}`; the "
                "subsets must hold the same pairs in the same order."
            )
    texts = {
        (column, language): rows[column][:] for column in ("premise", "hypothesis") for language, rows in read.items()
    }
    return load(name, source, pd.DataFrame(texts, dtype=object).set_axis(first["label"][:], axis=0), seed)


def flat_pairs(name: str, source: config.Source, rows: datasets.Dataset) -> pd.DataFrame:
    """A table of pairs (see `load`) from the layout of XNLI's own TSV files: one row for each pair and language.

    `id` is the same for the three pairs of a premise in all languages (`promptID` in XNLI).
    """
    columns = zip(FLAT_COLUMNS, tables.named(source, FLAT_COLUMNS), strict=True)
    table = pd.DataFrame({ours: rows[theirs][:] for ours, theirs in columns}, dtype=object)
    table["number"] = [_LABEL_NUMBERS.get(str(label), -1) for label in table["label"]]
    repeated = table.duplicated(["id", "number", "language"])
    clashes = table[repeated & (table["number"] >= 0)]  # a pair without a label is dropped later
    if len(clashes):
        label, language, identity = clashes.iloc[0][["label", "language", "id"]]
        raise errors.DataError(
            f"{name}: {source.path} has two pairs of the label {label!r} in {language} under the id {identity}; "
            "`columns: {id: ...}` must name a column that tells premises apart."
        )
    table = table[~repeated]
    pairs = table.groupby(["id", "number"], sort=False, dropna=False)
    wide = table.assign(pair=pairs.ngroup()).pivot(index="pair", columns="language", values=["premise", "hypothesis"])
    return wide.set_axis(pairs["number"].first(), axis=0)


def nested_pairs(name: str, source: config.Source, rows: datasets.Dataset) -> pd.DataFrame:
    """A table of pairs (see `load`) from the layout of `facebook/xnli`, `all_languages`: one row for each pair."""
    if isinstance(rows.features["premise"], datasets.Value):
        raise errors.DataError(
            f"{name}: {source.path} holds one language; expected premises in several: those of the subset "
            "`all_languages` of `facebook/xnli` (`name: all_languages`), or of several subsets (`languages: [ar, de]` "
            "without a `name`)."
        )
    texts = {
        "premise": [premise or {} for premise in rows["premise"][:]],
        "hypothesis": [
            dict(zip(h["language"], h["translation"], strict=True)) if h else {} for h in rows["hypothesis"][:]
        ],
    }
    wide = pd.concat({column: pd.DataFrame(cells, dtype=object) for column, cells in texts.items()}, axis=1)
    return wide.set_axis(rows["label"][:], axis=0)


def load(name: str, source: config.Source, pairs: pd.DataFrame, seed: int) -> sets.Xnli:
    """A set from a table of pairs: one row for each pair of a premise and a hypothesis.

    The index is the pair's label, a number. The columns are (`premise` or `hypothesis`, language).
    """
    if source.embeddings:
        raise errors.DataError(f"{name}: `embeddings` are those of a corpus, and {source.path} is an XNLI set.")
    languages = tables.languages(name, source, sorted(pairs["premise"].columns))
    pairs = pairs.reindex(columns=pd.MultiIndex.from_product([["premise", "hypothesis"], languages])).map(tables.text)
    complete, dropped = _complete(pairs)
    tables.require_rows(name, source.path, len(complete), dropped)
    texts = complete.to_numpy(object).reshape(-1, 3, 2, len(languages))  # premise, label, kind of text, language
    texts = texts[tables.sample(len(texts), source.limit, seed)]
    premise, queries = _distinct(texts[:, 0, 0])
    hypotheses, passages = _distinct(texts[:, :, 1])
    return sets.Xnli(
        name=name,
        languages=languages,
        queries=queries,
        passages=passages,
        premise=premise,
        **{label: np.ascontiguousarray(hypotheses[:, i]) for i, label in enumerate(LABELS)},
        dropped=dropped,
    )


def _complete(pairs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The three pairs of each premise that has all its texts, ordered by label, and why the others were dropped."""
    labelled = pairs[pairs.index.isin([0, 1, 2])]
    premises = sets.index(map(tuple, labelled["premise"].to_numpy(object)), {})
    labelled = labelled.set_axis(pd.MultiIndex.from_arrays([premises, labelled.index]), axis=0)
    unique = labelled[~labelled.index.duplicated()]
    whole = unique[unique.groupby(level=0).transform("size") == 3]
    complete = whole[whole.notna().all(axis=1).groupby(level=0).transform("all")]
    dropped = {
        "a label other than 0, 1 and 2": len(pairs) - len(labelled),
        "a second hypothesis of the same label": len(labelled) - len(unique),
        "a premise that lacks one of its three hypotheses": len(unique) - len(whole),
        "a text missing in one of the languages": len(whole) - len(complete),
    }
    return complete.sort_index(), {reason: count for reason, count in dropped.items() if count}


def _distinct(texts: npt.NDArray[np.object_]) -> tuple[sets.Rows, list[str]]:
    """The row of each text among the distinct texts, and the distinct texts in order of appearance."""
    rows, distinct = pd.factorize(texts.ravel())
    return rows.reshape(texts.shape), list(distinct)
