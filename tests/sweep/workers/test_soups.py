"""Sums of displacements: their arithmetic, what is written of them, and when a part stays in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.embedded_data import Data, EmbeddedData
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.model.low_rank import A, B
from adiabatic_ray.sweep.workers import soups
from adiabatic_ray.sweep.workers.encoder_tasks import EncoderTasks
from adiabatic_ray.sweep.workers.soups import Part
from adiabatic_ray.trials.layout import SweepFolder
from adiabatic_ray.trials.record import TrialRecord
from tests.sweep.workers.test_encoder_tasks import PLAN, discordant

MATRIX, BIAS, LAST = (
    "encoder.layer.1.output.dense.weight",
    "encoder.layer.0.attention.self.query.bias",
    "encoder.layer.1.output.dense.bias",
)
SCALES = (0.5, 0.25, 1.0)


@pytest.fixture
def parts(encoder: Encoder, tmp_path: Path) -> Callable[..., list[Part]]:
    """Three trials that moved different weights a little, the second one with low rank, as having these gains."""
    draws = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return 0.003 * torch.randn(shape, generator=draws)

    rows, columns = encoder.parameters[MATRIX].shape
    size, last = len(encoder.parameters[BIAS]), len(encoder.parameters[LAST])
    stored = (
        {MATRIX: noise(rows, columns), BIAS: noise(size)},
        {MATRIX + A: noise(4, columns), MATRIX + B: noise(rows, 4)},
        {BIAS: noise(size), LAST: noise(last)},
    )
    folder = SweepFolder(tmp_path / "runs" / "small")

    def make(*gains: float) -> list[Part]:
        made = []
        for number, (tensors, scale, gain) in enumerate(zip(stored, SCALES, gains, strict=True), start=1):
            checkpoint.save(folder.trial(number).displacement, Checkpoint(tensors, {"step": 8}))
            made.append(Part(number, folder.trial(number), scale, gain))
        return made

    return make


def stir(
    encoder: Encoder, small: config.Sweep, embedded: EmbeddedData, parts: Sequence[Part], tmp_path: Path
) -> list[TrialRecord]:
    return list(soups.stir(encoder, small, embedded, parts, 4, SweepFolder(tmp_path / "runs" / "small").trial(4)))


def test_the_sum_is_measured_and_stored(
    encoder: Encoder,
    small: config.Sweep,
    data: Data,
    embedded: EmbeddedData,
    parts: Callable[..., list[Part]],
    pocket: Path,
    tmp_path: Path,
) -> None:
    """Against the same sum put into the model by hand, and measured one triplet after the other."""
    given = parts(-99.0, -99.0, -99.0)  # so that any sum is better, as long as it is feasible
    record = stir(encoder, small, embedded, given[:2], tmp_path)[-1]
    folder = SweepFolder(tmp_path / "runs" / "small").trial(4)
    assert (record.number, record.state, record.config) == (4, "complete", {"soup": "1+2"})
    assert {key: value for key, value in record.metrics.items() if key.startswith("soup/")} == {
        "soup/1": 0.5,
        "soup/2": 0.25,
    }
    one, two = (checkpoint.load(part.folder.displacement) for part in given[:2])
    assert one is not None
    assert two is not None
    expected = {
        MATRIX: 0.5 * one.tensors[MATRIX] + 0.25 * two.tensors[MATRIX + B] @ two.tensors[MATRIX + A],
        BIAS: 0.5 * one.tensors[BIAS],
    }
    stored = checkpoint.load(folder.displacement)
    assert stored is not None
    assert stored.tensors.keys() == expected.keys()
    for name, delta in expected.items():
        torch.testing.assert_close(stored.tensors[name], delta)

    base, tuned = (SentenceTransformer(str(pocket / "encoder"), device="cpu") for _ in range(2))
    with torch.no_grad():
        for name, delta in expected.items():
            tuned[0].auto_model.get_parameter(name).add_(delta)
    wrong = discordant(tuned, base, data.selection["questions"])
    assert record.metrics["pnd/questions"] == pytest.approx(100 * sum(wrong) / len(wrong))
    kept = outcomes.load(folder.outcomes)
    assert kept is not None
    assert kept.by_scale[1.0]["questions"].tolist() == wrong
    assert set(kept.by_scale) == {1.0, *(one.scale for one in record.scaled)}
    assert record.profile[-1].gain == record.gain
    assert folder.discordance.exists()


def test_a_part_that_brings_nothing_is_left_out(
    encoder: Encoder, small: config.Sweep, embedded: EmbeddedData, parts: Callable[..., list[Part]], tmp_path: Path
) -> None:
    records = stir(encoder, small, embedded, parts(99.0, 98.0, 97.0), tmp_path)
    assert len(records) == 2
    for record in records:
        assert (record.state, record.config, record.points) == ("stopped", {"soup": "1"}, ())
        assert record.reason == "no sum with the displacement of another trial gains more than trial 1 alone"
        assert record.finished is not None
    assert not SweepFolder(tmp_path / "runs" / "small").trial(4).displacement.exists()


@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_task_comes_to_the_same(
    encoder: Encoder, small: config.Sweep, embedded: EmbeddedData, parts: Callable[..., list[Part]], tmp_path: Path
) -> None:
    given = parts(-99.0, -99.0, -99.0)
    here = stir(encoder, small, embedded, given, tmp_path)
    folder = SweepFolder(tmp_path / "runs" / "other").trial(4)
    tasks = EncoderTasks(small.model, PLAN, here=False)
    there = list(tasks.run(soups.stir, small, embedded, given, 4, folder))
    assert [one.config for one in there] == [one.config for one in here]
    for one, other in zip(there, here, strict=True):
        assert one.metrics == pytest.approx(other.metrics)
    assert folder.displacement.exists()


def test_the_next_part_is_added_to_the_edge_of_the_sum() -> None:
    before = soups.Soup({MATRIX: torch.ones(2, 2), BIAS: torch.ones(2)}, {1: 0.5, 2: 0.25})
    after = before.scaled(0.5) + soups.Soup({BIAS: torch.ones(2), LAST: torch.ones(3)}, {3: 1.0})
    assert after.shares == {1: 0.25, 2: 0.125, 3: 1.0}
    assert {name: delta.unique().tolist() for name, delta in after.deltas.items()} == {
        MATRIX: [0.5],
        BIAS: [1.5],
        LAST: [1.0],
    }
