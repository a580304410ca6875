"""What a sweep would do: nothing is started, and what would fail is said."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config, errors
from adiabatic_ray.sweep import preview
from tests import sweeps
from tests.model.test_roles import EXPECTED
from tests.model.test_zoo import saved

Load = Callable[..., config.Sweep]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def line(lines: list[str], start: str) -> str:
    (chosen,) = (one for one in lines if one.startswith(start))
    return chosen


def test_a_sweep_is_described_and_nothing_is_written(load_sweep: Load, tmp_path: Path) -> None:
    space = {
        "learning_rate": {"low": 1e-8, "high": 1e-6, "log": True},
        "margin": {"low": 0.05, "high": 0.25, "step": 0.05},
        "batch_size": [8, 16],
    }
    lines = list(preview.lines(load_sweep({"search.space": space})))
    assert lines[0] == "sweep small: 4 trials, chosen by Optuna (gp)"
    assert line(lines, "resources:") == "resources: 1 at a time, each on 1 CPU"
    assert line(lines, "  learning_rate:") == "  learning_rate: 1e-08 to 1e-06, on a log scale"
    assert line(lines, "  margin:") == "  margin: 0.05 to 0.25, in steps of 0.05"
    assert line(lines, "  batch_size:") == "  batch_size: 8, 16"
    # As many texts as the files hold, counted apart.
    assert line(lines, "train:").startswith("train: 200 triplets, ")
    assert line(lines, "selection xnli:") == "selection xnli: 20 premises, 140 query texts and 420 passage texts"
    assert line(lines, "confirmation questions:").startswith("confirmation questions: 100 triplets, ")
    assert not (tmp_path / "runs").exists()


def test_masks_by_what_they_leave(load_sweep: Load, pocket: Path) -> None:
    from safetensors.torch import load_file

    lines = list(preview.lines(load_sweep({"search.space.freeze": ["none", "embeddings+layer.*.output.dense.weight"]})))
    weights = load_file(pocket / "encoder" / "model.safetensors")
    used = {name: tensor.numel() for name, tensor in weights.items() if "pooler" not in name}
    frozen = {
        name for name in used if name.startswith("embeddings.") or re.search(r"layer\.\d\.output\.dense\.weight", name)
    }
    total, left = sum(used.values()), sum(count for name, count in used.items() if name not in frozen)
    assert f"mask none: trains {total:,} of {total:,} parameters" in lines
    assert f"mask embeddings+layer.*.output.dense.weight: trains {left:,} of {total:,} parameters" in lines
    assert any(
        re.match(r"  layer\.\*\.output\.dense\.weight freezes 3 tensors, 110,592 parameters: ", one) for one in lines
    )


@pytest.mark.slow
@pytest.mark.parametrize("architecture", EXPECTED)
def test_the_default_mask_in_each_architecture(architecture: str, pocket: Path, tmp_path: Path) -> None:
    """The names are those of the architecture's own embeddings, and the data need not be there."""
    base, hub = saved(architecture, pocket, tmp_path), config.Source(path="nobody/nothing")
    sweep = sweeps.minimal(
        model=config.Model(name=str(base)),
        train=dataclasses.replace(sweeps.MINIMAL.train, data=hub),
        evaluate=config.Evaluate(selection={"questions": hub, "xnli": hub}),
        search=dataclasses.replace(sweeps.MINIMAL.search, space={"learning_rate": [1e-8, 1e-7]}),
    )
    own = dict(SentenceTransformer(str(base), device="cpu")[0].auto_model.named_parameters())
    frozen = {name: p.numel() for name, p in own.items() if re.fullmatch(EXPECTED[architecture]["embeddings"], name)}
    said = line(list(preview.lines(sweep)), "  embeddings freezes")
    assert said.startswith(f"  embeddings freezes {len(frozen)} tensors, {sum(frozen.values()):,} parameters: ")
    assert next(iter(frozen)) in said


def test_low_rank_says_what_it_trains(load_sweep: Load, pocket: Path) -> None:
    from safetensors.torch import load_file

    lines = list(preview.lines(load_sweep({"train.rank": 4, "search.space": {"rank": [2, 8]}, "budget.trials": 2})))
    shapes = {name: t.shape for name, t in load_file(pocket / "encoder" / "model.safetensors").items()}
    linear = [shape for name, shape in shapes.items() if name.startswith("encoder.") and len(shape) == 2]
    trained, numbers = sum(a * b for a, b in linear), 8 * sum(a + b for a, b in linear)
    said = line(lines, "mask embeddings: ")
    assert said.startswith(f"mask embeddings: trains {trained:,} of ")
    assert said.endswith(f"({len(linear)} linear maps), with {numbers:,} numbers at rank 8")
    with pytest.raises(errors.MaskError, match=r"train\.rank: .* leaves none of them"):
        list(
            preview.lines(
                load_sweep({"train.rank": 4, "train.freeze": "attention+feed_forward", "search.space": {"rank": [4]}})
            )
        )


def test_the_time_is_that_of_the_heaviest_trial(load_sweep: Load) -> None:
    threads = torch.get_num_threads()
    lines = list(preview.lines(load_sweep({"search.space": {"steps": [10, 200_000]}, "budget.trials": 2})))
    said = line(lines, "time on this machine:")
    matched = re.search(r"about ([\d.]+) (min|h) a trial, ([\d.]+) (min|h) in all .*\((\d+) ms a step", said)
    assert matched, said
    a_trial, whole = (
        float(number) * {"min": 60, "h": 3600}[unit] for number, unit in (matched.groups()[:2], matched.groups()[2:4])
    )
    # Rounded to a millisecond a step, and to a tenth of an hour.
    assert a_trial == pytest.approx(200_000 * int(matched[5]) / 1000, abs=200_000 * 0.0006 + 180, rel=0.05)
    assert whole == pytest.approx(2 * a_trial, rel=0.1)
    assert torch.get_num_threads() == threads


def test_what_lies_on_the_hub_is_read_later(load_sweep: Load) -> None:
    sweep = load_sweep()
    remote = dataclasses.replace(
        sweep,
        model=config.Model(name="intfloat/multilingual-e5-small"),
        train=dataclasses.replace(sweep.train, data=config.Source(path="sentence-transformers/msmarco-bm25")),
    )
    lines = list(preview.lines(remote))
    assert "on the hub" in line(lines, "model intfloat/multilingual-e5-small:")
    assert line(lines, "data on the hub").endswith(": sentence-transformers/msmarco-bm25")
    assert not any(one.startswith(("time", "mask", "train:")) for one in lines)


def test_resources_that_this_machine_lacks_may_be_a_clusters(load_sweep: Load) -> None:
    sweep = load_sweep({"resources.cpus_per_trial": 1000})
    lines = list(preview.lines(sweep))
    assert "needs 1000 CPU" in line(lines, "resources: not on this machine")
    assert not any(one.startswith("time") for one in lines)


@pytest.mark.usefixtures("ray_cluster")
def test_resources_that_a_cluster_lacks_would_fail(load_sweep: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    sweep = load_sweep({"resources.cpus_per_trial": 1000})
    with pytest.raises(errors.ResourceError, match=r"needs 1000 CPU .*the cluster has 1 node with 2 CPU"):
        list(preview.lines(sweep))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"search.space.freeze": ["layer.7"]}, errors.MaskError, r"the pattern `layer.7`"),
        ({"model.name": "/nowhere"}, errors.ModelError, r"/nowhere is not a folder"),
        ({"train.data.path": "/nowhere.jsonl"}, errors.DataError, r"/nowhere.jsonl does not exist"),
    ],
)
def test_what_would_fail(load_sweep: Load, changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(preview.lines(load_sweep(changes)))


def test_tracking_that_is_set_elsewhere(load_sweep: Load) -> None:
    lines = list(preview.lines(load_sweep({"storage": "s3://bucket/runs"})))
    assert "s3://bucket/runs can hold no database for MLflow" in line(lines, "tracking: not from this machine")
