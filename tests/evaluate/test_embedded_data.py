"""What the trials of a sweep share is read and embedded once, whoever embeds it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

from adiabatic_ray import config, errors, sweep_file
from adiabatic_ray.data import sources
from adiabatic_ray.data.cache import Table
from adiabatic_ray.data.sets import Ranking, Triplets, Xnli
from adiabatic_ray.evaluate import embedded_data
from adiabatic_ray.evaluate.embedded_data import Data, EmbeddingBuilder, Texts
from adiabatic_ray.model.encoder import Encoder
from tests.generators import drain

Load = Callable[..., config.Sweep]


@pytest.fixture
def data(load_sweep: Load) -> Data:
    return embedded_data.read(load_sweep())


def test_all_sets_are_read_as_their_kinds(data: Data) -> None:
    assert isinstance(data.train, Triplets)
    kinds = {"questions": Triplets, "xnli": Xnli}
    for section in (data.selection, data.confirmation):
        assert {name: type(read) for name, read in section.items()} == kinds
    assert [len(read) for read in data.all()] == [200, 200, 20, 100, 40]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.data": {"path": "{pocket}/xnli/selection.jsonl"}}, r"train.data: .* holds no triplets to train on"),
        (
            {"search.objective": {"data": "xnli", "metric": "mrr_at_10"}},
            r"search.objective: `xnli` is an XNLI set, which has no `mrr_at_10`. Leave the metric out",
        ),
        (
            {"evaluate.selection": {"questions": {"path": "{pocket}/questions"}, "xnli": {"path": "/nowhere"}}},
            "nowhere",
        ),
    ],
)
def test_sets_that_do_not_fit_are_told(
    changes: dict[str, object], message: str, write_sweep: Callable[..., Path], pocket: Path
) -> None:
    file = write_sweep(changes)
    file.write_text(file.read_text().replace("{pocket}", str(pocket)))
    with pytest.raises(errors.AdiabaticRayError, match=message):
        embedded_data.read(sweep_file.load(file))


def test_pairs_are_ranked_and_train_with_infonce_alone(
    load_sweep: Callable[..., config.Sweep], pocket: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (pocket / "questions" / "train.jsonl").read_text().splitlines()[:40]]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps({"query": r["query"], "positive": r["positive"]}) for r in rows))
    pairs: dict[str, object] = {"train.data": {"path": str(path)}, "evaluate.selection.pairs": {"path": str(path)}}
    with pytest.raises(errors.ConfigError, match=r"train.data: .* holds pairs, .* `triplet_margin` needs negatives"):
        embedded_data.read(load_sweep(pairs))
    with pytest.raises(errors.ConfigError, match=r"holds pairs, and the loss `triplet_margin` needs negatives"):
        embedded_data.read(load_sweep(pairs | {"search.space.loss": ["infonce", "triplet_margin"]}))
    with pytest.raises(
        errors.ConfigError, match=r"has no teacher's scores for the loss `margin_mse`: a column `score`"
    ):
        embedded_data.read(load_sweep({"train.loss": "margin_mse"}))
    read = embedded_data.read(load_sweep(pairs | {"train.loss": "infonce"}))
    assert read.train.pairs
    assert isinstance(read.selection["pairs"], Ranking)
    both = {"data": "questions", "metric": "map"}
    with pytest.raises(errors.ConfigError, match=r"questions: is judged by triplets and by rankings: improvement, map"):
        embedded_data.read(load_sweep({"constraint": {"guards": [both, {"data": "xnli"}, {"data": "questions"}]}}))


def test_negatives_are_mined_from_a_corpus_too(
    load_sweep: Callable[..., config.Sweep], pocket: Path, encoder: Encoder, tmp_path: Path
) -> None:
    more = tmp_path / "more.jsonl"
    told = [json.loads(line)["positive"] for line in (pocket / "questions" / "train.jsonl").read_text().splitlines()]
    more.write_text("\n".join(json.dumps({"text": text}) for text in told[1000:2000]))
    settings = {"num_negatives": 2, "corpus": {"path": str(more)}}
    read = embedded_data.read(load_sweep({"train.negatives": settings, "train.data.limit": 30}))
    _, embedded = drain(EmbeddingBuilder(encoder, tmp_path).embedded_data(read))
    mined = [read.train.passages[row] for row in embedded.train.negative]
    assert len(mined) == 60
    from_corpus = [text for text in mined if text in told[1000:2000]]
    assert len(from_corpus) > 40
    queries, passages = encoder.encode(read.train.queries, "query"), encoder.encode(read.train.passages, "passage")
    scores = queries @ passages.T
    scores[embedded.train.query, embedded.train.positive] = -1
    for query in range(30):
        own = embedded.train.negative[embedded.train.query == query].tolist()
        assert sorted(scores[query, own].tolist()) == sorted(scores[query].topk(2).values.tolist())


def test_tables_hold_the_encoders_own_embeddings(encoder: Encoder, data: Data, tmp_path: Path) -> None:
    progress, embedded = drain(EmbeddingBuilder(encoder, tmp_path).embedded_data(data))
    assert torch.equal(embedded.train_passages.open(), encoder.encode(data.train.passages, "passage"))
    read = [*data.selection.values(), *data.confirmation.values()]
    assert len(embedded.selection) == len(embedded.confirmation) == 2
    for one, source in zip([*embedded.selection, *embedded.confirmation], read, strict=True):
        assert torch.equal(one.passages.open(), encoder.encode(source.passages, "passage"))
        assert torch.equal(one.queries.open(), encoder.encode(source.queries, "query"))
        assert one.data.passages == []  # a trial needs their embeddings only
        assert (one.data.name, one.data.queries) == (source.name, source.queries)
    assert embedded.train.passages == []
    ended = [(one.name, one.side) for one in progress if one.progress.done == one.progress.total]
    names = ["questions", "xnli", "questions (confirmation)", "xnli (confirmation)"]
    assert ended == [("train", "passage"), *((name, side) for name in names for side in ("passage", "query"))]


def test_what_is_in_the_cache_is_not_embedded_again(encoder: Encoder, data: Data, tmp_path: Path) -> None:
    _, first = drain(EmbeddingBuilder(encoder, tmp_path).embedded_data(data))
    again = EmbeddingBuilder(encoder, tmp_path, lambda texts: pytest.fail("embedded again") if texts else [])
    assert drain(again.embedded_data(data)) == ([], first)


@pytest.mark.slow
def test_others_embed_what_is_missing_in_one_go(encoder: Encoder, data: Data, tmp_path: Path) -> None:
    """Two of the tables are there; the encoder is asked for the others at once, and may answer in blocks."""
    selected = {"questions": data.selection["questions"]}
    drain(EmbeddingBuilder(encoder, tmp_path).evaluation_sets(selected))
    asked: list[list[Texts]] = []

    def embed(texts: Sequence[Texts]) -> Iterator[tuple[int, Tensor]]:
        asked.append(list(texts))
        for table, (side, own) in enumerate(texts):
            for start in range(0, len(own), 7):
                yield table, encoder.encode(own[start : start + 7], side)

    builder = EmbeddingBuilder(encoder, tmp_path, embed)
    _, sets = drain(builder.evaluation_sets(data.selection))
    xnli = data.selection["xnli"]
    assert asked == [[("passage", xnli.passages), ("query", xnli.queries)]]
    assert torch.allclose(sets[1].queries.open(), encoder.encode(xnli.queries, "query"), atol=1e-6)
    assert torch.allclose(sets[1].passages.open(), encoder.encode(xnli.passages, "passage"), atol=1e-6)


@pytest.mark.slow
def test_a_table_that_another_sweep_filled_meanwhile_is_passed_over(
    encoder: Encoder, data: Data, tmp_path: Path
) -> None:
    """The stream of embeddings holds its blocks all the same, which must not go into the next table."""

    def embed(texts: Sequence[Texts]) -> Iterator[tuple[int, Tensor]]:
        for table, (side, own) in enumerate(texts):
            yield table, encoder.encode(own, side)

    filling = EmbeddingBuilder(encoder, tmp_path, embed).embedded_data(Data(data.train, data.selection, {}))
    assert next(filling).name == "train"
    questions = {"questions": data.selection["questions"]}
    progress, _ = drain(EmbeddingBuilder(encoder, tmp_path).evaluation_sets(questions))
    assert {one.side for one in progress} == {"passage", "query"}
    rest, embedded = drain(filling)
    assert {one.name for one in rest} == {"train", "xnli"}
    for one, read in zip(embedded.selection, data.selection.values(), strict=True):
        assert torch.equal(one.passages.open(), encoder.encode(read.passages, "passage"))
        assert torch.equal(one.queries.open(), encoder.encode(read.queries, "query"))


def test_a_ranking_set_is_embedded_too(encoder: Encoder, data: Data, tmp_path: Path) -> None:
    texts = data.train
    ranking = Ranking(
        name="r", queries=texts.queries[:2], passages=texts.passages[:5], judgements=[{0: 1}, {1: 1}],
        identical=np.full(2, -1),
    )  # fmt: skip
    _, (embedded,) = drain(EmbeddingBuilder(encoder, tmp_path).evaluation_sets({"r": ranking}))
    assert torch.equal(embedded.passages.open(), encoder.encode(ranking.passages, "passage"))


@pytest.fixture
def corpus(pocket: Path) -> list[str]:
    lines = (pocket / "archive" / "en" / "corpus.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def of_archive(pocket: Path, embeddings: Path, ids: Path | None = None) -> dict[str, Ranking]:
    stored = config.Embeddings(path=str(embeddings), ids=None if ids is None else str(ids))
    source = config.Source(path=str(pocket / "archive" / "en"), split="selection", embeddings=stored)
    read = sources.load("archive", source, seed=0)
    assert isinstance(read, Ranking)
    return {"archive": read}


def only_queries(encoder: Encoder) -> Callable[[Sequence[Texts]], Iterator[tuple[int, Tensor]]]:
    def embed(texts: Sequence[Texts]) -> Iterator[tuple[int, Tensor]]:
        for position, (side, own) in enumerate(texts):
            assert side == "query"
            yield position, encoder.encode(own, side)

    return embed


def test_a_stored_matrix_is_used_where_it_lies(
    encoder: Encoder, pocket: Path, corpus: list[str], tmp_path: Path
) -> None:
    vectors = encoder.encode(corpus, "passage")
    np.save(tmp_path / "vectors.npy", vectors.numpy())
    data = of_archive(pocket, tmp_path / "vectors.npy")
    builder = EmbeddingBuilder(encoder, tmp_path / "cache", only_queries(encoder))
    _, (one,) = drain(builder.evaluation_sets(data))
    assert one.passages == Table(str(tmp_path), 900, encoder.dimension, "vectors.npy")
    assert torch.equal(one.passages.open(), vectors)
    assert not one.data.stored  # a trial needs no more than the table
    assert len(list((tmp_path / "cache").glob("*/embeddings.npy"))) == 1  # of the queries
    (tmp_path / "vectors.npy").unlink()
    with pytest.raises(errors.DataError, match=r"vectors.npy is not on this machine"):
        one.passages.open()


def test_other_stores_are_copied_and_what_they_lack_is_embedded(
    encoder: Encoder, pocket: Path, corpus: list[str], tmp_path: Path
) -> None:
    """In half precision, scaled, in another order, without the last hundred passages."""
    vectors = encoder.encode(corpus, "passage")
    order = np.random.default_rng(0).permutation(800)
    np.save(tmp_path / "vectors.npy", 2 * vectors.numpy()[order].astype(np.float16))
    ids = [json.loads(line)["_id"] for line in (pocket / "archive" / "en" / "corpus.jsonl").read_text().splitlines()]
    (tmp_path / "ids.txt").write_text("\n".join(ids[row] for row in order))
    data = of_archive(pocket, tmp_path / "vectors.npy", tmp_path / "ids.txt")
    progress, (one,) = drain(EmbeddingBuilder(encoder, tmp_path / "cache").evaluation_sets(data))
    assert "archive: 100 of 900 passages are not in vectors.npy" in [p.progress.note for p in progress]
    embedded = one.passages.open()
    assert torch.allclose(embedded[:800], vectors[:800], atol=1e-3)
    assert torch.allclose(embedded.norm(dim=1), torch.ones(900), atol=1e-5)
    assert torch.equal(embedded[800:], torch.nn.functional.normalize(vectors[800:]))
    again = EmbeddingBuilder(encoder, tmp_path / "cache", lambda texts: pytest.fail("embedded again") if texts else [])
    assert drain(again.evaluation_sets(data))[1] == [one]


def test_each_language_has_its_own_file(encoder: Encoder, pocket: Path, tmp_path: Path) -> None:
    """In other orders and precisions, one with a passage less than the corpus, which is embedded."""
    languages, expected = ["de", "en", "ru"], []
    for language in languages:
        lines = (pocket / "archive" / language / "corpus.jsonl").read_text().splitlines()
        texts, ids = ([json.loads(line)[key] for line in lines] for key in ("text", "_id"))
        vectors = encoder.encode(texts, "passage")
        expected.append(vectors)
        kept = np.random.default_rng(0).permutation(len(texts))[: len(texts) - (language == "ru")]
        np.save(
            tmp_path / f"{language}.npy", vectors.numpy()[kept].astype("float16" if language == "de" else "float32")
        )
        (tmp_path / f"{language}.txt").write_text("\n".join(ids[i] for i in kept))
    stored = config.Embeddings(path=str(tmp_path / "{language}.npy"), ids=str(tmp_path / "{language}.txt"))
    source = config.Source(path=str(pocket / "archive"), split="selection", languages=languages, embeddings=stored)
    embedded: list[str] = []

    def embed(wanted: Sequence[Texts]) -> Iterator[tuple[int, Tensor]]:
        for position, (side, texts) in enumerate(wanted):
            embedded.extend(texts if side == "passage" else [])
            yield position, encoder.encode(texts, side)

    builder = EmbeddingBuilder(encoder, tmp_path / "cache", embed)
    seen, (one,) = drain(builder.evaluation_sets({"archive": sources.load("archive", source, seed=0)}))
    assert len(embedded) == 1
    notes = [progress.progress.note for progress in seen if progress.progress.note]
    assert notes == [f"archive: 1 of {sum(map(len, expected)):,} passages are not in de.npy, en.npy, ru.npy"]
    assert torch.allclose(one.passages.open(), torch.cat(expected), atol=1e-3)
    assert torch.allclose(one.passages.open()[len(expected[0]) :], torch.cat(expected[1:]), atol=1e-6)
    assert isinstance(one.data, Ranking)
    assert one.data.ranges is not None
    assert len(np.unique(one.data.ranges, axis=0)) == 3


def test_triplets_find_their_stored_embeddings_by_their_texts(
    load_sweep: Load, encoder: Encoder, data: Data, tmp_path: Path
) -> None:
    vectors = encoder.encode(data.train.passages, "passage")
    table = {"text": data.train.passages[::-1], "vector": list(vectors.numpy()[::-1])}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "vectors.parquet")
    source = {"path": load_sweep().train.data.path, "limit": 200, "embeddings": str(tmp_path / "vectors.parquet")}
    read = embedded_data.read(load_sweep({"train.data": source}))
    assert len(read.train.stored) == 1
    _, embedded = drain(EmbeddingBuilder(encoder, tmp_path / "cache").embedded_data(read))
    assert torch.equal(embedded.train_passages.open(), torch.nn.functional.normalize(vectors))
