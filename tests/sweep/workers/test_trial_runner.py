"""A process's trials: what is reported, what is on disk by then, and what of that a later process goes on with."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from adiabatic_ray import config
from adiabatic_ray.evaluate import edge, outcomes
from adiabatic_ray.evaluate.embedded_data import EmbeddedData
from adiabatic_ray.model import checkpoint
from adiabatic_ray.model.encoder import Encoder
from adiabatic_ray.sweep.workers import trial_runner
from adiabatic_ray.trials.layout import SweepFolder, TrialFolder
from adiabatic_ray.trials.record import TrialReport

GENTLE = {"learning_rate": 1e-5, "freeze": "embeddings"}


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "runs" / "small")


@pytest.fixture
def runner(
    encoder: Encoder, small: config.Sweep, embedded: EmbeddedData, folder: SweepFolder
) -> trial_runner.TrialRunner:
    return trial_runner.TrialRunner(encoder, small, embedded, str(folder.path))


def steps(runner: trial_runner.TrialRunner) -> list[TrialReport]:
    """The reports of the trial that was started, to its end."""
    reports = [runner.step()]
    while reports[-1].status == "running":
        reports.append(runner.step())
    return reports


def displacement(folder: TrialFolder) -> dict[str, torch.Tensor]:
    stored = checkpoint.load(folder.displacement)
    assert stored is not None
    return dict(stored.tensors)


def test_a_trial_reports_what_is_on_disk(
    runner: trial_runner.TrialRunner, folder: SweepFolder, embedded: EmbeddedData, small: config.Sweep
) -> None:
    runner.start(1, GENTLE)
    assert not folder.path.exists()  # nothing happens before the first step
    half = runner.step()
    trial = folder.trial(1)
    assert (half.number, half.status, half.step, half.steps, half.scaled) == (1, "running", 4, 8, ())
    assert {path.name for path in trial.path.iterdir()} == {
        "checkpoint.safetensors",
        "discordance.csv",
        "outcomes.safetensors",
    }
    whole = runner.step()
    assert (whole.status, whole.step, whole.reason) == ("complete", 8, "")
    assert whole.metrics.keys() >= {"loss", "gain", "p_value", "constraint", "displacement/norm", "pnd/questions"}
    assert 0 < whole.metrics["system/process_cpu_utilization_percentage"] < 100 * (os.cpu_count() or 1)
    used = psutil.Process().memory_info().rss / 1e6
    assert whole.metrics["system/process_memory_usage_megabytes"] == pytest.approx(used, rel=0.5)
    assert len(whole.scaled) <= small.evaluate.exact
    assert [point.scale for point in whole.profile] == sorted({*edge.GRID, *(one.scale for one in whole.scaled)})

    # The displacement moves what the mask leaves, and its norm is the one that was reported.
    moved = displacement(trial)
    assert not any(name.startswith("embeddings") for name in moved)
    norm = torch.cat([delta.double().flatten() for delta in moved.values()]).norm()
    assert whole.metrics["displacement/norm"] == pytest.approx(float(norm))
    # The table and the outcomes say what was reported, the latter at each scale.
    row = pd.read_csv(trial.discordance).set_index("dataset").loc["questions"]
    assert (row["improvement"], row["pnd"]) == pytest.approx((whole.metrics["gain"], whole.metrics["pnd/questions"]))
    kept = outcomes.load(trial.outcomes)
    assert kept is not None
    shares = {scale: 100 * float(sets["questions"].double().mean()) for scale, sets in kept.by_scale.items()}
    reported = {1.0: whole.metrics} | {candidate.scale: candidate.metrics for candidate in whole.scaled}
    assert shares == pytest.approx({scale: metrics["pnd/questions"] for scale, metrics in reported.items()})
    assert kept.by_scale[1.0]["xnli"].shape == (len(embedded.selection[1].data), 2, 7, 7)


def test_another_process_goes_on_from_the_checkpoint(
    encoder: Encoder, small: config.Sweep, embedded: EmbeddedData, folder: SweepFolder, runner: trial_runner.TrialRunner
) -> None:
    runner.start(1, GENTLE)
    unbroken = steps(runner)
    runner.start(2, GENTLE)
    runner.step()
    runner.close()
    another = trial_runner.TrialRunner(encoder, small, embedded, str(folder.path))
    another.start(2, GENTLE)
    (rest,) = steps(another)

    def untimed(report: TrialReport) -> TrialReport:
        metrics = {key: value for key, value in report.metrics.items() if not key.startswith(("time/", "system/"))}
        return dataclasses.replace(report, number=0, metrics=metrics)

    assert untimed(rest) == untimed(unbroken[-1])
    ours, theirs = displacement(folder.trial(1)), displacement(folder.trial(2))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@contextlib.contextmanager
def files_of(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_storage_that_takes_nothing_is_reported_and_tried_again(
    runner: trial_runner.TrialRunner, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_runner, "PATIENCE", 0.0)
    runner.start(1, GENTLE)
    undisturbed = steps(runner)
    runner.start(2, GENTLE)
    with files_of(50_000):
        for _ in range(2):
            waiting = runner.step()
            assert (waiting.number, waiting.status, waiting.metrics) == (2, "running", {})
            assert "File too large" in waiting.waits
    assert not folder.trial(2).checkpoint.exists()
    later = steps(runner)
    assert [report.step for report in later] == [4, 8]  # nothing was trained twice, and nothing is missing
    assert [report.metrics["loss"] for report in later] == [report.metrics["loss"] for report in undisturbed]
    assert all(report.waits == "" for report in later)
    with files_of(50_000):
        runner.start(3, GENTLE)
        assert runner.step().waits
    runner.start(4, GENTLE)  # a trial that was left waiting leaves nothing behind
    assert [report.metrics["loss"] for report in steps(runner)] == [report.metrics["loss"] for report in undisturbed]


def test_trials_that_follow_each_other_do_not_meet(runner: trial_runner.TrialRunner, folder: SweepFolder) -> None:
    """A trial after others, one of them left in its middle, is what it is alone."""
    runner.start(1, GENTLE)
    alone = steps(runner)
    runner.start(2, GENTLE | {"learning_rate": 1e-3})
    runner.step()
    runner.start(3, GENTLE)
    assert steps(runner)[-1].metrics["loss"] == alone[-1].metrics["loss"]
    ours, theirs = displacement(folder.trial(1)), displacement(folder.trial(3))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not folder.trial(2).displacement.exists()


def test_what_fails_is_a_report(runner: trial_runner.TrialRunner, folder: SweepFolder) -> None:
    runner.start(1, {"freeze": "nothing.of.the.kind"})
    report = runner.step()
    assert (report.number, report.status, report.metrics) == (1, "crashed", {})
    assert report.reason.startswith("MaskError: ")
    assert report.reason.endswith(f"(see {folder.trial(1).error})")
    assert "Traceback" in folder.trial(1).error.read_text()
    runner.start(2, {"learning_rate": 1e30})
    diverged = steps(runner)[-1]
    assert (diverged.status, diverged.metrics) == ("diverged", {})
    assert "the loss is nan" in diverged.reason
    runner.start(3, GENTLE)
    assert steps(runner)[-1].status == "complete"


def test_certain_harm_is_reported(
    encoder: Encoder, load_sweep: Callable[..., config.Sweep], embedded: EmbeddedData, folder: SweepFolder
) -> None:
    sweep = load_sweep({"train.steps": 30, "train.evaluations": 1, "constraint.level": "overall"})
    runner = trial_runner.TrialRunner(encoder, sweep, embedded, str(folder.path))
    runner.start(1, GENTLE)
    assert not steps(runner)[-1].harmful
    runner.start(2, {"learning_rate": 3e-3, "freeze": "none"})
    harmed = steps(runner)[-1]
    assert harmed.harmful
    assert harmed.metrics["constraint"] > 0


def test_only_the_first_process_of_a_group_writes(
    encoder: Encoder, small: config.Sweep, embedded: EmbeddedData, folder: SweepFolder
) -> None:
    runner = trial_runner.TrialRunner(encoder, small, embedded, str(folder.path), writes=False)
    runner.start(1, GENTLE)
    assert [report.status for report in steps(runner)] == ["running", "complete"]
    assert not folder.path.exists()
