"""Reading data sets: hub ids and local files, in the layouts of the field. Columns and files say which one it is."""

from __future__ import annotations

from pathlib import Path

from adiabatic_ray import config, errors
from adiabatic_ray.data import ranking_sources, sets, tables, triplet_sources, xnli_sources


def load(name: str, source: config.Source, seed: int) -> sets.DataSet:
    """Read a data set; its files and columns say which kind it is.

    A `limit` draws that many triplets, premises or queries at random with `seed`.

    Raises:
        DataError: the source cannot be read, or lacks a column, a language or a usable row.
    """
    ranking = ranking_sources.of_files(name, source, seed)
    if ranking is not None:
        return ranking
    path = Path(source.path)
    if path.is_dir() and tables.file(path, "collection"):
        raise errors.DataError(
            f"{name}: {path} holds MS MARCO's own files. Name the one to read: the triplets "
            "(`qidpidtriples.*.tsv`, `triples.*.tsv`), or the judgements of a ranking set (`qrels.*.tsv`)."
        )
    subsets = tables.subsets(source)
    ranking = ranking_sources.of_subsets(name, source, subsets, seed)
    if ranking is not None:
        return ranking
    if source.languages and set(source.languages) <= subsets:
        return xnli_sources.of_subsets(name, source, source.languages, seed)
    rows = tables.read(name, source)
    columns = rows.column_names
    if set(tables.named(source, xnli_sources.FLAT_COLUMNS)) <= set(columns):
        return xnli_sources.load(name, source, xnli_sources.flat_pairs(name, source, rows), seed)
    if not source.columns and set(xnli_sources.COLUMNS) <= set(columns):
        return xnli_sources.load(name, source, xnli_sources.nested_pairs(name, source, rows), seed)
    return triplet_sources.load(name, source, rows, seed)
