"""Steps per second against the stock triplet trainer of sentence-transformers, at batch 14.

The stock trainer runs query, positive and negative through the model and trains all of it. A trial here runs the query,
and reads the passages' embeddings from the frozen table.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from typing import Any

import datasets
import torch
import transformers
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from transformers import PrinterCallback, TrainerCallback

from adiabatic_ray import config
from adiabatic_ray.data import sets
from adiabatic_ray.evaluate.benchmark import Benchmark
from adiabatic_ray.model import encoder
from adiabatic_ray.train import trial
from tests.benchmarks import encoder_folder, training_triplets

BATCH, ROUNDS, INTERVALS = 14, 3, 4
STEPS = 100 if torch.cuda.is_available() else 12


class Clock(TrainerCallback):  # type: ignore[misc]
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *arguments: Any, **named: Any) -> None:  # noqa: ARG002
        self.times.append(time.perf_counter())


def stock(folder: str, data: sets.Triplets) -> float:
    """Median seconds of a step of the stock trainer."""
    texts = {
        "anchor": [data.queries[i] for i in data.query],
        "positive": [data.passages[i] for i in data.positive],
        "negative": [data.passages[i] for i in data.negative],
    }
    model = SentenceTransformer(folder, device="cpu")
    loss = losses.TripletLoss(model, losses.TripletDistanceMetric.COSINE, triplet_margin=0.1)
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=out,
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=2e-8,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            logging_strategy="no",
            save_strategy="no",
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=datasets.Dataset.from_dict(texts), loss=loss, callbacks=[clock]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return statistics.median(b - a for a, b in itertools.pairwise(clock.times))


def ours(model: encoder.Encoder, data: trial.TrainingData, mask: str) -> float:
    """Seconds of a step of a trial: the median over the intervals between evaluations, but the first."""
    settings = config.Train(
        data=config.Source(path="none"), batch_size=BATCH, freeze=mask, steps=STEPS, evaluations=INTERVALS
    )
    points = trial.run(model, data, settings, Benchmark([]).measure, seed=0)
    return statistics.median(point.metrics["time/seconds_per_step"] for point in list(points)[1:])


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = encoder_folder()
    data = training_triplets(BATCH * STEPS)
    device = encoder.default_device()
    model = encoder.load(config.Model(name=str(folder)), device)
    passages = torch.nn.functional.normalize(torch.randn(len(data.passages), model.dimension), dim=-1)
    prepared = trial.TrainingData.prepare(data, passages, model)
    masks = ("none", "embeddings", "embeddings+output.dense.weight")
    seconds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):  # in turn, so that a busy machine slows both sides
        seconds.setdefault("stock", []).append(stock(str(folder), data))
        for mask in masks:
            seconds.setdefault(mask, []).append(ours(model, prepared, mask))
    lengths = [len(row) for row in model.tokenize([data.passages[i] for i in data.positive], "passage")]
    queries = [len(row) for row in prepared.tokens]
    print(f"{folder}, {device}, {torch.get_num_threads()} threads, batch {BATCH}, median of {ROUNDS} rounds")
    print(f"tokens: {statistics.mean(queries):.0f} a query, {statistics.mean(lengths):.0f} a passage")
    base = statistics.median(seconds["stock"])
    print(f"{'stock sentence-transformers triplet trainer':45} {1000 * base:7.0f} ms a step")
    for mask in masks:
        of_ours = statistics.median(seconds[mask])
        print(f"{'trial, frozen: ' + mask:45} {1000 * of_ours:7.0f} ms a step  {base / of_ours:5.1f} times as fast")


if __name__ == "__main__":
    main()
