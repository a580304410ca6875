"""Embedding, confirming and exporting: in this process, as Ray tasks, and against sentence-transformers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from adiabatic_ray import config, errors
from adiabatic_ray.data.sets import DataSet, Triplets
from adiabatic_ray.evaluate import outcomes
from adiabatic_ray.evaluate.embedded_data import Data, EmbeddedData
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep.cluster.resources import Plan
from adiabatic_ray.sweep.workers import encoder_tasks
from adiabatic_ray.sweep.workers.encoder_tasks import EncoderTasks
from adiabatic_ray.trials.layout import ExportFolder, SweepFolder, TrialFolder
from adiabatic_ray.trials.record import Candidate
from tests.generators import drain
from tests.records import record

PLAN = Plan(cpus=1, gpus=0, concurrent=2, workers=1, fitting=2, filling_cpus=2)
NAMES = ("encoder.layer.1.output.dense.weight", "encoder.layer.0.attention.self.query.bias")


@pytest.fixture
def trial(encoder: Encoder, tmp_path: Path) -> TrialFolder:
    """The folder of a trial that moved two of the encoder's tensors."""
    folder = SweepFolder(tmp_path / "runs" / "small").trial(3)
    moves = torch.Generator().manual_seed(0)
    deltas = {name: 0.2 * torch.randn(encoder.parameters[name].shape, generator=moves) for name in NAMES}
    checkpoint.save(folder.displacement, Checkpoint(deltas, {"step": 8}))
    return folder


@pytest.fixture(params=["here", "on Ray"])
def tasks(request: pytest.FixtureRequest, small: config.Sweep) -> EncoderTasks:
    """Tasks in this process, and on the shared Ray."""
    if request.param == "on Ray":
        request.getfixturevalue("ray_cluster")
    return EncoderTasks(small.model, PLAN, here=request.param == "here")


def discordant(queries: SentenceTransformer, passages: SentenceTransformer, data: DataSet) -> list[bool]:
    """Which triplets are discordant, in float64 and one after the other."""
    assert isinstance(data, Triplets)
    q = queries.encode_query(data.queries).astype(np.float64)
    p = passages.encode_document(data.passages).astype(np.float64)
    rows = zip(data.query, data.positive, data.negative, strict=True)
    return [bool(q[query] @ p[positive] <= q[query] @ p[negative]) for query, positive, negative in rows]


def share(outcome: list[bool]) -> float:
    return 100 * sum(outcome) / len(outcome)


@pytest.mark.slow
def test_the_same_tables_are_filled_here_and_on_ray(
    tasks: EncoderTasks, small: config.Sweep, data: Data, embedded: EmbeddedData, tmp_path: Path
) -> None:
    progress, filled = drain(tasks.embed(small, data, tmp_path / "cache"))
    assert {(one.name, one.side) for one in progress} >= {("train", "passage"), ("questions", "query")}
    torch.testing.assert_close(filled.train_passages.open(), embedded.train_passages.open(), atol=1e-6, rtol=0)
    for section in ("selection", "confirmation"):
        for ours, theirs in zip(getattr(filled, section), getattr(embedded, section), strict=True):
            assert ours.data.name == theirs.data.name
            torch.testing.assert_close(ours.queries.open(), theirs.queries.open(), atol=1e-6, rtol=0)
            torch.testing.assert_close(ours.passages.open(), theirs.passages.open(), atol=1e-6, rtol=0)
    again, _ = drain(tasks.embed(small, data, tmp_path / "cache"))
    assert again == []  # all was there


def test_a_mask_that_does_not_fit_fails_before_anything_is_embedded(
    load_sweep: Callable[..., config.Sweep], data: Data, tmp_path: Path
) -> None:
    sweep = load_sweep({"search.space.freeze": ["embeddings", "layer.9"]})
    with pytest.raises(errors.MaskError, match=r"the pattern `layer.9`"):
        drain(EncoderTasks(sweep.model, PLAN, here=True).embed(sweep, data, tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_the_untouched_encoder_is_trial_0(
    small: config.Sweep, data: Data, embedded: EmbeddedData, pocket: Path, tmp_path: Path
) -> None:
    folder = SweepFolder(tmp_path / "small").trial(0)
    made = encoder_tasks.untouched(small, embedded, folder)
    assert (made.number, made.state, dict(made.config)) == (0, "complete", {})
    assert (made.gain, made.constraint, made.confirmation["constraint"]) == (0.0, -1.0, -1.0)
    base = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    for metrics, sets, file in (
        (made.metrics, data.selection, folder.outcomes),
        (made.confirmation, data.confirmation, folder.confirmation_outcomes),
    ):
        expected = discordant(base, base, sets["questions"])
        assert metrics["pnd/questions"] == pytest.approx(share(expected))
        stored = outcomes.load(file)
        assert stored is not None
        assert stored.by_scale[1.0]["questions"].tolist() == expected


def test_without_confirmation_sets_nothing_is_said_of_them(
    small: config.Sweep, embedded: EmbeddedData, tmp_path: Path
) -> None:
    folder = SweepFolder(tmp_path / "small").trial(0)
    made = encoder_tasks.untouched(small, dataclasses.replace(embedded, confirmation=[]), folder)
    assert made.confirmation == {}
    assert not folder.confirmation_outcomes.exists()


def test_a_candidate_is_confirmed_and_exported_as_it_is_measured(
    tasks: EncoderTasks,
    small: config.Sweep,
    data: Data,
    embedded: EmbeddedData,
    trial: TrialFolder,
    encoder: Encoder,
    pocket: Path,
    tmp_path: Path,
) -> None:
    (tested,) = tasks.run(encoder_tasks.confirm, small, embedded, [(trial, 0.5, 1.0)])
    assert (tested.scale, tested.gain) == (0.5, 1.0)
    measured = tested.metrics
    half = Candidate(0.5, measured, "")
    winner = record(3, 1.0, 0.4, scaled=(half,))
    target = ExportFolder(tmp_path / "best")
    assert list(tasks.run(encoder_tasks.export_candidate, trial, winner, "# A card", target)) == [target]

    tuned = SentenceTransformer(str(target.query_encoder), device="cpu")
    base = SentenceTransformer(str(pocket / "encoder"), device="cpu")
    expected = discordant(tuned, base, data.confirmation["questions"])
    assert expected != discordant(base, base, data.confirmation["questions"])
    assert measured["pnd/questions"] == pytest.approx(share(expected))
    stored = outcomes.load(trial.confirmation_outcomes)
    assert stored is not None
    assert stored.by_scale[0.5]["questions"].tolist() == expected
    assert f"questions,negative,,,{len(expected)},{sum(expected)}," in trial.confirmation_discordance.read_text()

    weights = dict(tuned.named_parameters())
    deltas = checkpoint.load(trial.displacement)
    assert deltas is not None
    for name, full in encoder.full_names.items():
        moved = 0.5 * deltas.tensors[name] if name in deltas.tensors else 0
        assert torch.equal(weights[full].data, encoder.parameters[name] + moved)
    assert json.loads(target.record.read_text()) == json.loads(json.dumps(dataclasses.asdict(winner)))
    assert {(model / "README.md").read_text() for model in (target.query_encoder, target.retrieval_model)} == {
        "# A card"
    }


def test_one_that_is_infeasible_goes_out_whole(encoder: Encoder, trial: TrialFolder, tmp_path: Path) -> None:
    target = ExportFolder(tmp_path / "out")
    list(encoder_tasks.export_candidate(encoder, trial, record(3, 1.0, 0.4), "", target))
    weights: Mapping[str, torch.Tensor] = dict(
        SentenceTransformer(str(target.query_encoder), device="cpu").named_parameters()
    )
    stored = checkpoint.load(trial.displacement)
    assert stored is not None
    name = NAMES[0]
    assert torch.equal(weights[encoder.full_names[name]].data, encoder.parameters[name] + stored.tensors[name])


def test_a_displacement_that_is_gone_is_an_error_of_ours_wherever_it_is_missed(
    tasks: EncoderTasks, small: config.Sweep, embedded: EmbeddedData, trial: TrialFolder
) -> None:
    trial.displacement.unlink()
    with pytest.raises(errors.SweepError, match=r"displacement.safetensors is missing or damaged. Only the best"):
        list(tasks.run(encoder_tasks.confirm, small, embedded, [(trial, 1.0, 1.0)]))
