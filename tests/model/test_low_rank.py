"""Displacements of low rank are those of LoRA, as peft trains and loads them."""

from __future__ import annotations

import math
from pathlib import Path

import peft
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.data import sets, sources, triplets
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.model import encoder as encoders
from adiabatic_ray.model import export, low_rank
from adiabatic_ray.model.displacement import Displacement, moved, trained
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.train import trial

TEXTS = ["who reads a book?", "кто читает книгу", "Der Lehrer liest ein Buch in der Bibliothek am Morgen.", ""]
SETTINGS = config.Train(
    data=config.Source(path="none"), learning_rate=1e-3, batch_size=8, steps=20, evaluations=1, rank=4
)


@pytest.fixture(scope="module")
def data(pocket: Path, encoder: Encoder) -> trial.TrainingData:
    own = sources.load("train", config.Source(path=str(pocket / "questions" / "train.jsonl"), limit=60), seed=0)
    assert isinstance(own, sets.Triplets)
    return trial.TrainingData.prepare(own, encoder.encode(own.passages, "passage"), encoder)


@pytest.fixture
def displacement(encoder: Encoder) -> Displacement:
    """A random one of rank 4, all over the layers."""
    generator = torch.Generator().manual_seed(1)
    displacement = Displacement(encoder, trained(encoder, "embeddings", 4), 4, seed=0)
    with torch.no_grad():
        for name, delta in zip(displacement.names, displacement.deltas, strict=True):
            if name.endswith(low_rank.B):
                delta.copy_(0.3 * torch.randn(delta.shape, generator=generator))
    return displacement


def test_only_linear_maps_of_the_transformer_move(encoder: Encoder) -> None:
    names = trained(encoder, "embeddings", 4)
    assert len(names) == 3 * 6  # layers; query, key, value, output, and the two of the feed-forward part
    assert all(encoder.parameters[name].dim() == 2 for name in names)
    assert trained(encoder, "embeddings+feed_forward", 4) == [name for name in names if "attention" in name]
    assert "embeddings.word_embeddings.weight" not in trained(encoder, "none", 4)
    with pytest.raises(errors.MaskError, match=r"train\.rank: .* leaves none of them"):
        trained(encoder, "attention+feed_forward", 4)


def test_it_begins_as_lora(encoder: Encoder) -> None:
    """At zero, and with factors of the distribution that peft draws."""
    (name, *_) = trained(encoder, "embeddings", 64)
    displacement = Displacement(encoder, [name], 64, seed=3)
    tensors = displacement.tensors()
    assert torch.equal(displacement.weights()[name], encoder.parameters[name])
    layer = peft.tuners.lora.Linear(  # type: ignore[attr-defined]
        torch.nn.Linear(96, 96), "default", config=peft.LoraConfig(r=64, lora_alpha=64), r=64, lora_alpha=64
    )
    theirs, ours = layer.lora_A["default"].weight, tensors[name + low_rank.A]
    assert layer.scaling["default"] == 1
    assert ours.shape == theirs.shape
    assert float(ours.abs().max()) == pytest.approx(float(theirs.detach().abs().max()), rel=1e-3)
    assert float(ours.std()) == pytest.approx(float(theirs.detach().std()), rel=0.03)
    assert float(ours.abs().max()) <= 1 / math.sqrt(96)
    assert torch.equal(tensors[name + low_rank.B], layer.lora_B["default"].weight)
    again = Displacement(encoder, [name], 64, seed=3).tensors()
    assert torch.equal(again[name + low_rank.A], ours)
    assert not torch.equal(Displacement(encoder, [name], 64, seed=4).tensors()[name + low_rank.A], ours)


def trained_by_peft(encoder: Encoder, data: trial.TrainingData) -> dict[str, Tensor]:
    """The oracle: peft's own model, torch's AdamW, a loss written out; its displacements by weight."""
    names = trained(encoder, SETTINGS.freeze, SETTINGS.rank)
    begin = Displacement(encoder, names, SETTINGS.rank, seed=0).tensors()
    model = SentenceTransformer(encoder.settings.name, device="cpu").eval()
    targets = [name.removesuffix(".weight") for name in names]
    model.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=targets))
    factors = {name: p for name, p in model[0].auto_model.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name in names:
            target = name.removesuffix(".weight")
            factors[f"{target}.lora_A.default.weight"].copy_(begin[name + low_rank.A])
    optimizer = torch.optim.AdamW(list(factors.values()), lr=SETTINGS.learning_rate, weight_decay=0.0)
    batch = triplets.batches(len(data.triplets), SETTINGS.batch_size, seed=0)
    for step in range(20):
        rows = batch(step).numpy()
        features = encoder.collate([data.tokens[i] for i in data.triplets.query[rows]])
        query = torch.nn.functional.normalize(model(features)["sentence_embedding"], dim=-1)
        positive = data.passages[data.triplets.positive[rows]]
        negative = data.passages[data.triplets.negative[rows]]
        hinge = SETTINGS.margin - (query * positive).sum(-1) + (query * negative).sum(-1)
        optimizer.zero_grad()
        hinge.clamp(min=0).mean().backward()
        optimizer.step()

    def factor(target: str, which: str) -> Tensor:
        return factors[f"{target}.lora_{which}.default.weight"].detach()

    return {f"{target}.weight": factor(target, "B") @ factor(target, "A") for target in targets}


def test_it_trains_as_peft_does(encoder: Encoder, data: trial.TrainingData) -> None:
    *_, last = trial.run(encoder, data, SETTINGS, Benchmark([]).measure, seed=0)
    assert last.displacement is not None
    ours, theirs = dict(low_rank.products(last.displacement.tensors())), trained_by_peft(encoder, data)
    assert ours.keys() == theirs.keys()
    distance = torch.cat([(ours[name] - theirs[name]).flatten() for name in ours]).norm()
    moved_by = torch.cat([delta.flatten() for delta in theirs.values()]).norm()
    assert moved_by > 0.05
    assert distance / moved_by < 1e-3


def test_its_size_is_that_of_its_product(displacement: Displacement) -> None:
    base, weights = displacement.base, moved(displacement.base, displacement.tensors())
    deltas = torch.cat([(weights[name].double() - base[name].double()).flatten() for name in weights])
    norms = displacement.norms()
    assert norms["displacement/norm"] == pytest.approx(float(deltas.norm()), rel=1e-4)
    assert norms["displacement/max"] == pytest.approx(float(deltas.abs().max()), rel=1e-4)
    whole = torch.cat([weight.flatten() for weight in base.values()]).double().norm()
    assert norms["displacement/relative"] == pytest.approx(float(deltas.norm() / whole), rel=1e-4)


def test_its_gradient_is_that_of_the_merged_weights(encoder: Encoder, displacement: Displacement) -> None:
    features = encoder.collate(encoder.tokenize(TEXTS, "query"))
    target = torch.randn(len(TEXTS), encoder.dimension, generator=torch.Generator().manual_seed(0))
    parameters = list(displacement.deltas)
    ours = torch.autograd.grad((displacement(features) * target).sum(), parameters)
    merged = encoder.embed(features, displacement.weights())
    expected = torch.autograd.grad((merged * target).sum(), parameters)
    assert (displacement(features) - merged).abs().max() < 1e-5
    for one, other in zip(ours, expected, strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()
    assert torch.equal(encoder.embed(features), encoder.embed(features, {}))
    assert not any(module._forward_hooks for module in encoder.module.modules())


def test_a_linear_map_that_is_not_called_is_named() -> None:
    class Passing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) @ self.second.weight

    module = Passing()
    factors = low_rank.factors({name: p for name, p in module.named_parameters() if "weight" in name}, 2, seed=0)
    with (
        pytest.raises(errors.ModelError, match=r"train\.rank: the model uses `second\.weight` without calling"),
        low_rank.added(module, factors),
    ):
        module(torch.ones(1, 3))
    assert not module.first._forward_hooks


def test_the_checkpoint_holds_factors_alone(encoder: Encoder, data: trial.TrainingData) -> None:
    *_, last = trial.run(encoder, data, SETTINGS, Benchmark([]).measure, seed=0)
    assert last.checkpoint is not None
    shapes = [encoder.parameters[name].shape for name in trained(encoder, "embeddings", 4)]
    held = sum(tensor.numel() for tensor in last.checkpoint().tensors.values())
    assert held == 3 * 4 * sum(height + width for height, width in shapes)  # with two moments for each


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_adapter_gives_what_the_merged_model_gives(
    encoder: Encoder, displacement: Displacement, scale: float, tmp_path: Path
) -> None:
    weights = moved(encoder.parameters, displacement.tensors(), scale)
    expected = encoder.encode(TEXTS, "query", weights)
    assert (expected - encoder.encode(TEXTS, "query")).abs().max() > 1e-2
    export.save(encoder, tmp_path / "merged", weights)
    export.save_adapter(encoder, tmp_path / "adapter", displacement.tensors(), scale, "the card")

    base, put_on, with_peft = (SentenceTransformer(encoder.settings.name, device="cpu") for _ in range(3))
    put_on.load_adapter(str(tmp_path / "adapter"))
    peft.PeftModel.from_pretrained(with_peft[0].auto_model, str(tmp_path / "adapter"))
    alone = [SentenceTransformer(str(tmp_path / name), device="cpu") for name in ("adapter", "merged")]
    for model in (put_on, with_peft, *alone):
        assert (torch.from_numpy(model.encode_query(TEXTS)) - expected).abs().max() < 1e-5
    assert (torch.from_numpy(base.encode_query(TEXTS)) - expected).abs().max() > 1e-2
    assert (tmp_path / "adapter" / "README.md").read_text() == "the card"
    adapter, merged = (
        sum(file.stat().st_size for file in (tmp_path / one).rglob("*.safetensors")) for one in ("adapter", "merged")
    )
    assert adapter < merged / 5


def test_an_adapter_as_base_is_merged(encoder: Encoder, displacement: Displacement, tmp_path: Path) -> None:
    export.save_adapter(encoder, tmp_path / "adapter", displacement.tensors(), 1.0, "")
    expected = torch.from_numpy(SentenceTransformer(str(tmp_path / "adapter"), device="cpu").encode_query(TEXTS))
    base = encoders.load(config.Model(name=str(tmp_path / "adapter")))
    assert base.parameters.keys() == encoder.parameters.keys()
    assert (base.encode(TEXTS, "query") - expected).abs().max() < 1e-5
    assert base.fingerprint("passage") != encoder.fingerprint("passage")
    export.save(base, tmp_path / "out")
    loaded = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert (torch.from_numpy(loaded.encode_query(TEXTS)) - expected).abs().max() < 1e-5
