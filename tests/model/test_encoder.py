"""Embeddings against sentence-transformers' own, and models that cannot be loaded."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW, Dense, Pooling

from adiabatic_ray import config, errors
from adiabatic_ray.model import encoder as encoders
from adiabatic_ray.model import export
from tests.trap import Pickled

TEXTS = [
    "a",
    "Der Lehrer liest ein Buch in der Bibliothek am Morgen.",
    "who reads a book?",
    "",
    "Öğretmen kitap okuyor. " * 40,  # longer than the maximum
]


def oracle(folder: Path | str, texts: list[str]) -> torch.Tensor:
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)


def test_embeddings_equal_sentence_transformers(pocket: Path, encoder: encoders.Encoder) -> None:
    embeddings = encoder.encode(TEXTS, "query")
    assert embeddings.shape == (len(TEXTS), 96)
    assert (embeddings - oracle(pocket / "encoder", TEXTS)).abs().max() < 1e-5
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(len(TEXTS)))


def test_embeddings_of_a_real_encoder(real_data: Path) -> None:
    folder = real_data / "encoder"
    embeddings = encoders.load(config.Model(name=str(folder))).encode(TEXTS, "passage")
    assert (embeddings - oracle(folder, TEXTS)).abs().max() < 1e-5


def test_prompts_go_before_the_text_and_default_to_the_models_own(pocket: Path, tmp_path: Path) -> None:
    given = config.Sides(query="query: ", passage="passage: ")
    model = encoders.load(config.Model(name=str(pocket / "encoder"), prompts=given))
    assert torch.equal(model.encode(["a"], "query"), model.encode(["query: a"], "query").roll(0)) is False
    plain = encoders.load(config.Model(name=str(pocket / "encoder")))
    assert torch.equal(model.encode(["a b"], "query"), plain.encode(["query: a b"], "query"))
    assert torch.equal(model.encode(["a b"], "passage"), plain.encode(["passage: a b"], "passage"))

    saved = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    saved.prompts = {"query": "Q ", "document": "D "}
    saved.save(str(tmp_path / "prompted"))
    assert encoders.load(config.Model(name=str(tmp_path / "prompted"))).prompts == {"query": "Q ", "passage": "D "}


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "lasttoken"])
def test_pooling_given_in_the_sweep_file(pocket: Path, tmp_path: Path, mode: Any) -> None:
    bare = tmp_path / "bare"  # transformers' layout, which does not say how to pool
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pocket / "encoder" / name, bare)
    model = encoders.load(config.Model(name=str(bare), pooling=mode, max_length=config.Lengths(query=64)))

    from sentence_transformers.sentence_transformer.modules import Pooling

    expected = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    expected[1] = Pooling(96, mode)
    texts = TEXTS[:3]
    reference = expected.encode(texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
    assert (model.encode(texts, "query") - reference).abs().max() < 1e-5
    with pytest.raises(errors.ModelError, match=r"does not say how it pools .* Give `model.pooling`: mean, cls, max"):
        encoders.load(config.Model(name=str(bare)))


def test_a_prompt_that_documents_do_not_get_is_asked_about(pocket: Path, tmp_path: Path) -> None:
    """`encode_document` takes the prompt `document` alone, and this one is named `passage`."""
    saved = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    saved.prompts = {"query": "Q ", "passage": "P "}
    saved.save(str(tmp_path / "named"))
    with pytest.raises(errors.ModelError, match=r"has the prompt 'P ' for `passage` .* `model.prompts.passage: 'P '`"):
        encoders.load(config.Model(name=str(tmp_path / "named")))
    for prompt in ("P ", ""):
        model = encoders.load(config.Model(name=str(tmp_path / "named"), prompts=config.Sides(passage=prompt)))
        assert model.prompts == {"query": "Q ", "passage": prompt}


def test_an_encoder_that_embeds_otherwise_is_refused(pocket: Path, tmp_path: Path) -> None:
    """Each side has a length of its own here, which only sentence-transformers knows of."""
    saved = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    saved[0].query_length = 4
    saved.save(str(tmp_path / "short"))
    with pytest.raises(errors.ModelError, match=r"embeds a query otherwise than this project, by 0\.\d+ of its length"):
        encoders.load(config.Model(name=str(tmp_path / "short")))
    lengths = config.Lengths(query=6, passage=9)
    assert encoders.load(config.Model(name=str(pocket / "encoder"), max_length=lengths)).module.max_seq_length > 9


def test_replaced_weights_leave_the_encoder_as_it_is(encoder: encoders.Encoder) -> None:
    before = encoder.encode(TEXTS, "query")
    moved = {name: weight + 0.01 for name, weight in encoder.parameters.items()}
    assert (encoder.encode(TEXTS, "query", moved) - before).abs().max() > 0.01
    assert torch.equal(encoder.encode(TEXTS, "query"), before)
    assert torch.equal(encoder.encode(TEXTS, "query", dict(encoder.parameters)), before)


def test_parameters_are_those_that_the_embedding_depends_on(real_data: Path) -> None:
    model = encoders.load(config.Model(name=str(real_data / "encoder")))
    everything = {name for name, _ in model.module.named_parameters()}
    assert {"0.model.pooler.dense.weight", "0.model.pooler.dense.bias"} <= everything
    assert len(model.parameters) == len(everything) - 2
    assert not any("pooler" in name for name in model.parameters)


def test_fingerprint_follows_what_embeddings_depend_on(pocket: Path, encoder: encoders.Encoder) -> None:
    def load(**changes: Any) -> encoders.Encoder:
        return encoders.load(config.Model(name=str(pocket / "encoder"), **changes))

    same, moved = load(), load()
    with torch.no_grad():
        next(iter(moved.parameters.values()))[0, 0] += 1e-6
    prints = [
        encoder.fingerprint("query"),
        moved.fingerprint("query"),
        load(prompts=config.Sides(query="q: ")).fingerprint("query"),
        load(max_length=config.Lengths(query=16)).fingerprint("query"),
        load(pooling="cls").fingerprint("query"),
        load(truncate_dim=32).fingerprint("query"),
    ]
    assert len(set(prints)) == len(prints)
    assert same.fingerprint("query") == prints[0]
    assert load(prompts=config.Sides(query="q: ")).fingerprint("passage") == encoder.fingerprint("passage")


def test_fingerprint_follows_settings_that_no_weight_shows(pocket: Path, tmp_path: Path) -> None:
    """Stored embeddings of an encoder with the same weights and other settings must not be used."""
    heads = shutil.copytree(pocket / "encoder", tmp_path / "heads")
    moved = shutil.copytree(pocket / "encoder", tmp_path / "moved")
    settings = json.loads((heads / "config.json").read_text())
    settings["num_attention_heads"] *= 2
    (heads / "config.json").write_text(json.dumps(settings))

    def loaded(folder: Path, activation: torch.nn.Module | None = None) -> encoders.Encoder:
        model = config.Model(name=str(folder))
        encoder = encoders.load(model)
        if activation is not None:
            torch.manual_seed(0)
            dense = Dense(encoder.dimension, encoder.dimension, activation_function=activation)
            encoder.module.insert(2, dense)
            encoder = encoders.Encoder(encoder.module, model)
        return encoder

    same, other, tanh, identity = (
        loaded(pocket / "encoder"),
        loaded(heads),
        loaded(pocket / "encoder", torch.nn.Tanh()),
        loaded(pocket / "encoder", torch.nn.Identity()),
    )
    for one, two in ((same, other), (tanh, identity)):
        assert {n: p.tolist() for n, p in one.parameters.items()} == {n: p.tolist() for n, p in two.parameters.items()}
        assert not torch.allclose(one.encode(["a question"], "query"), two.encode(["a question"], "query"), atol=1e-3)
        assert one.fingerprint("query") != two.fingerprint("query")
    assert loaded(moved).fingerprint("query") == same.fingerprint("query")


def test_batches_hold_each_row_once_within_the_token_budget() -> None:
    lengths = [3, 500, 7, 7, 128, 1] * 50
    batches = list(encoders._batches(lengths, 1000))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 1000


def test_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelError, match=r"none is not a folder"):
        encoders.load(config.Model(name=str(tmp_path / "none")))
    with pytest.raises(errors.ModelError, match=r"holds no model: neither `modules.json` nor `config.json`"):
        encoders.load(config.Model(name=str(tmp_path)))
    with pytest.raises(encoders.HubUnreachable, match=r"neither a folder nor in the hub's cache"):
        encoders.load(config.Model(name="nobody/nothing"))  # HF_HUB_OFFLINE is set for tests


def test_what_embeds_no_tokens_is_refused() -> None:
    words = BoW(["tree", "book"])
    with pytest.raises(errors.ModelError, match=r"embeds a query with `BoW`, which is not supported; only encoders"):
        encoders.Encoder(SentenceTransformer(modules=[words], device="cpu"), config.Model(name="bag of words"))


def test_a_model_that_cannot_run_is_an_error_of_ours(pocket: Path, tmp_path: Path) -> None:
    broken = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    broken.insert(2, Dense(32, 16))  # of another width than what comes before it
    broken.save(str(tmp_path / "broken"), create_model_card=False)
    with pytest.raises(
        errors.ModelError, match=r"does not embed a text: RuntimeError: .* Its modules are Transformer, "
    ):
        encoders.load(config.Model(name=str(tmp_path / "broken")))


def test_a_prompt_that_is_not_pooled(pocket: Path, tmp_path: Path) -> None:
    saved = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    saved[1] = Pooling(saved[1].embedding_dimension, "mean", include_prompt=False)
    saved.prompts = {"query": "who asks: ", "document": "the text: "}
    saved.save(str(tmp_path / "unpooled"), create_model_card=False)
    model = encoders.load(config.Model(name=str(tmp_path / "unpooled")))
    texts = [text for text in TEXTS if text]
    theirs = SentenceTransformer(str(tmp_path / "unpooled"), device="cpu")
    assert torch.allclose(model.encode(texts, "query"), torch.from_numpy(theirs.encode_query(texts)), atol=1e-5)
    assert torch.allclose(model.encode(texts, "passage"), torch.from_numpy(theirs.encode_document(texts)), atol=1e-5)
    pooled = encoders.load(config.Model(name=str(tmp_path / "unpooled"), pooling="mean"))
    assert (model.encode(texts, "query") - pooled.encode(texts, "query")).abs().max() > 0.01


def test_a_matryoshka_encoder_is_cut_trained_and_exported(pocket: Path, tmp_path: Path) -> None:
    folder = str(pocket / "encoder")
    model = encoders.load(config.Model(name=folder, truncate_dim=32))
    base = SentenceTransformer(folder, device="cpu", truncate_dim=32)
    expected = base.encode(TEXTS, normalize_embeddings=True)
    assert model.dimension == 32
    assert torch.allclose(model.encode(TEXTS, "passage"), torch.from_numpy(expected), atol=1e-5)
    name = "encoder.layer.0.output.dense.weight"
    weights = {name: 1.1 * model.parameters[name]}
    export.save_retrieval_model(model, tmp_path / "model", weights)
    exported = SentenceTransformer(str(tmp_path / "model"), device="cpu", truncate_dim=32)
    queries = torch.from_numpy(exported.encode_query(TEXTS, normalize_embeddings=True))
    assert torch.allclose(queries, model.encode(TEXTS, "query", weights), atol=1e-5)
    assert (queries - model.encode(TEXTS, "query")).abs().max() > 1e-4
    documents = exported.encode_document(TEXTS, normalize_embeddings=True)
    assert (documents == base.encode_document(TEXTS, normalize_embeddings=True)).all()
    with pytest.raises(errors.ModelError, match=r"model.truncate_dim: .* has 96 dimensions, and cannot be cut to 128"):
        encoders.load(config.Model(name=folder, truncate_dim=128))


def lacking(encoder: Path, folder: Path, name: str) -> config.Model:
    """A copy of an encoder whose file lacks a weight."""
    shutil.copytree(encoder, folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop(name, None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return config.Model(name=str(folder))


def test_weights_that_the_file_lacks_are_not_drawn_at_random(pocket: Path, tmp_path: Path) -> None:
    """The pooler of BERT is drawn too, but no embedding depends on it."""
    needed = lacking(pocket / "encoder", tmp_path / "needed", "encoder.layer.0.output.dense.weight")
    with pytest.raises(
        errors.ModelError, match=r"the weights of .*needed lack 1 .* such as `encoder.layer.0.output.dense.weight`"
    ):
        encoders.load(needed)
    encoders.load(lacking(pocket / "encoder", tmp_path / "pooler", "pooler.dense.weight"))


def test_code_of_a_model_runs_where_it_is_trusted(pocket: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`revision` must be a commit .* but got 'main'"):
        config.Model(name="somebody/something", trust_remote_code=True, revision="main")
    config.Model(name="somebody/something", trust_remote_code=True, revision="0" * 40)
    folder = tmp_path / "trusted"
    shutil.copytree(pocket / "encoder", folder)
    (folder / "code.py").write_text(
        "from sentence_transformers.base.modules import Normalize as Theirs\n\n"
        "class Normalize(Theirs):\n"
        "    def forward(self, features):\n"
        "        features = super().forward(features)\n"
        "        return features | {'sentence_embedding': features['sentence_embedding'].roll(1, -1)}\n"
    )
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = "code.Normalize"
    (folder / "modules.json").write_text(json.dumps(modules))
    model = encoders.load(config.Model(name=str(folder), trust_remote_code=True))
    plain = encoders.load(config.Model(name=str(pocket / "encoder")))
    assert torch.allclose(model.encode(TEXTS, "query"), plain.encode(TEXTS, "query").roll(1, -1), atol=1e-6)


def pickled_weights(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Pickled(mark)}, folder / "pytorch_model.bin")


def own_code(folder: Path, mark: Path) -> None:
    (folder / "code.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")


def foreign_architecture(folder: Path, mark: Path) -> None:
    own_code(folder, mark)
    mapped = {"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    settings = json.loads((folder / "config.json").read_text()) | mapped
    (folder / "config.json").write_text(json.dumps(settings))


def foreign_module(folder: Path, mark: Path) -> None:
    own_code(folder, mark)
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = "code.Normalize"
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (pickled_weights, r"Weights must be in safetensors. Where you trust the model"),
        (foreign_architecture, r"contains custom code .* nothing from there is run unless you trust it"),
        (
            foreign_module,
            r"the module class 'code.Normalize', which is not part of Sentence Transformers.* nothing from",
        ),
    ],
)
def test_nothing_from_a_model_folder_is_executed(
    pocket: Path, tmp_path: Path, plant: Callable[[Path, Path], None], message: str
) -> None:
    folder, mark = tmp_path / "unsafe", tmp_path / "mark"
    shutil.copytree(pocket / "encoder", folder)
    plant(folder, mark)
    with pytest.raises(errors.ModelError, match=message):
        encoders.load(config.Model(name=str(folder)))
    assert not mark.exists()
    with contextlib.suppress(Exception):  # that it is a trap at all
        if plant is pickled_weights:
            torch.load(folder / "pytorch_model.bin", weights_only=False)
        SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    assert mark.exists()
