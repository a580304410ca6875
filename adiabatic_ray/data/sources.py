"""Reading data sets: hub ids and local files, in the layouts of the field. Columns and files say which one it is."""

from __future__ import annotations

from pathlib import Path

from adiabatic_ray import config, errors
from adiabatic_ray.data import ranking_sources, sets, tables, triplet_sources, xnli_sources


def load(name: str, source: config.Source, seed: int) -> sets.DataSet:
    """Read a data set; its files and columns say which kind it is, unless `layout` does.

    A `limit` draws that many triplets, premises or queries at random with `seed`.

    Raises:
        DataError: the source cannot be read, or lacks a column, a language or a usable row.
    """
    named = source.layout
    subsets = tables.subsets(source)
    if named in (None, *ranking_sources.LAYOUTS):
        ranking = ranking_sources.of_files(name, source, seed)
        path = Path(source.path)
        if ranking is None and path.is_dir() and tables.file(path, "collection"):
            raise errors.DataError(
                f"{name}: {path} holds MS MARCO's own files. Name the one to read: the triplets "
                "(`qidpidtriples.*.tsv`, `triples.*.tsv`), or the judgements of a ranking set (`qrels.*.tsv`)."
            )
        ranking = ranking or ranking_sources.of_subsets(name, source, subsets, seed)
        if ranking is not None:
            return ranking
        if named:
            raise errors.DataError(f"{name}: {source.path} is no data set in the layout `{named}`.")
    if named in (None, "xnli") and source.languages and set(source.languages) <= subsets:
        return xnli_sources.of_subsets(name, source, source.languages, seed)
    rows = tables.read(name, source)
    columns = set(rows.column_names)
    if named in (None, "xnli") and set(tables.named(source, xnli_sources.FLAT_COLUMNS)) <= columns:
        return xnli_sources.load(name, source, xnli_sources.flat_pairs(name, source, rows), seed)
    if named == "xnli":
        tables.require_columns(name, source.path, rows.column_names, xnli_sources.COLUMNS)
    if named == "xnli" or (named is None and not source.columns and set(xnli_sources.COLUMNS) <= columns):
        return xnli_sources.load(name, source, xnli_sources.nested_pairs(name, source, rows), seed)
    return triplet_sources.load(name, source, rows, seed)
