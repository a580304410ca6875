"""The search by hand: Ray Tune, Ray's `OptunaSearch`, and the stock trainer of sentence-transformers.

Each library is used as its documentation shows: Ray's pages "Getting Started with Ray Tune", `OptunaSearch` and "How to
Save and Load Trial Checkpoints"; those of sentence-transformers on the trainer ("Training Overview"), on `Router` for
asymmetric models, on `TripletLoss` and on custom evaluators. What the documentation leaves open is as in a trial of
this project: the learning rate is constant, and texts occur once in what is encoded.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import datasets
import numpy as np
import numpy.typing as npt
import ray
import torch
import transformers
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer import losses
from transformers import PrinterCallback

from adiabatic_ray import config
from adiabatic_ray.data import sets, sources

PENALTY = 10.0  # what a percent of degradation beyond the margin takes off the score

EvaluationData: TypeAlias = Mapping[str, sets.Triplets | sets.Xnli]
Outcomes: TypeAlias = npt.NDArray[np.bool_]  # discordance: `[n]`, or for XNLI `[n, 2, L, L]`


@dataclass(frozen=True)
class Winner:
    """The configuration and the query encoder with the best score, and the seconds that all trials took together.

    `ended` is when the last trial ended.
    """

    chosen: Mapping[str, Any]
    encoder: SentenceTransformer
    training: float
    evaluating: float
    ended: float


def search(sweep: config.Sweep, storage: str) -> Winner:
    """Search for the best score with the data, the space and the numbers of a sweep."""
    selection = load(sweep.evaluate.selection, sweep.seed)
    untouched = SentenceTransformer(sweep.model.name)
    base = {name: outcomes(untouched, data) for name, data in selection.items()}
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    trainable = tune.with_parameters(
        train,
        sweep=sweep,
        triplets=sources.load("train", sweep.train.data, sweep.seed),
        selection=selection,
        base=base,
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": sweep.resources.cpus_per_trial, "gpu": int(torch.cuda.is_available())}),
        param_space={name: _domain(choices) for name, choices in sweep.search.space.items()},
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric="score", mode="max", seed=sweep.seed),
            num_samples=sweep.budget.trials or 1,
            max_concurrent_trials=sweep.resources.concurrent_trials,
        ),
        run_config=tune.RunConfig(
            name="by_hand",
            storage_path=storage,
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score"),
        ),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    best = results.get_best_result(metric="score", mode="max", scope="all")
    encoder = SentenceTransformer(best.get_best_checkpoint(metric="score", mode="max").path)
    ray.shutdown()
    ends = [result.metrics for result in results]
    training, evaluating = (sum(end[key] for end in ends) for key in ("seconds_training", "seconds_evaluating"))
    return Winner(best.config, encoder, training, evaluating, max(end["ended"] for end in ends))


def _domain(choices: config.Range | list[config.Scalar]) -> Any:
    if isinstance(choices, list):
        return tune.choice(choices)
    return (tune.loguniform if choices.log else tune.uniform)(choices.low, choices.high)


def train(
    chosen: dict[str, Any],
    sweep: config.Sweep,
    triplets: sets.Triplets,
    selection: EvaluationData,
    base: Mapping[str, Outcomes],
) -> None:
    """One trial: tune the query side of an asymmetric model whose document side is frozen."""
    torch.set_num_threads(int(sweep.resources.cpus_per_trial))  # as this project does, whatever OMP_NUM_THREADS says
    transformers.logging.set_verbosity_error()
    query, document = SentenceTransformer(sweep.model.name), SentenceTransformer(sweep.model.name)
    document.requires_grad_(False)
    for name, weight in query.named_parameters():
        weight.requires_grad_(not any(pattern in name for pattern in chosen["freeze"].split("+")))
    model = SentenceTransformer(modules=[Router.for_query_document(list(query.children()), list(document.children()))])
    texts = {
        "anchor": [triplets.queries[i] for i in triplets.query],
        "positive": [triplets.passages[i] for i in triplets.positive],
        "negative": [triplets.passages[i] for i in triplets.negative],
    }
    steps = sweep.train.steps
    assert steps is not None
    evaluator = PenalisedGain(query, sweep, selection, base)
    with tempfile.TemporaryDirectory() as out:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=out,
            router_mapping={"anchor": "query", "positive": "document", "negative": "document"},
            max_steps=steps,
            per_device_train_batch_size=chosen["batch_size"],
            learning_rate=chosen["learning_rate"],
            lr_scheduler_type="constant",
            eval_strategy="steps",
            eval_steps=steps // sweep.train.evaluations,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_dict(texts),
            loss=losses.TripletLoss(model, losses.TripletDistanceMetric.COSINE, triplet_margin=chosen["margin"]),
            evaluator=evaluator,
        )
        trainer.remove_callback(PrinterCallback)
        evaluator.resumed = time.perf_counter()
        trainer.train()


class PenalisedGain(BaseEvaluator):  # type: ignore[misc]
    """Reports the gain, less a penalty for harm, and the query encoder to Tune at each evaluation of the trainer."""

    def __init__(
        self,
        query: SentenceTransformer,
        sweep: config.Sweep,
        selection: EvaluationData,
        base: Mapping[str, Outcomes],
    ) -> None:
        super().__init__()
        self.primary_metric = "score"
        self.query, self.sweep, self.selection, self.base = query, sweep, selection, base
        self.training = self.evaluating = self.resumed = 0.0  # seconds

    def __call__(self, model: SentenceTransformer, *_: Any, **__: Any) -> dict[str, float]:
        arrived = time.perf_counter()
        self.training += arrived - self.resumed
        change = {name: increase(self.base[name], outcomes(model, data)) for name, data in self.selection.items()}
        guard = self.sweep.constraint
        gain, degradation = -change[self.sweep.search.objective], change[guard.data]
        score = gain - PENALTY * max(0.0, degradation - guard.margin)
        self.evaluating += time.perf_counter() - arrived
        with tempfile.TemporaryDirectory() as folder:
            self.query.save(folder, create_model_card=False)
            times = {"seconds_training": self.training, "seconds_evaluating": self.evaluating, "ended": time.time()}
            tune.report({"score": score, **times}, checkpoint=tune.Checkpoint.from_directory(folder))
        self.resumed = time.perf_counter()
        return {"score": score}


def load(named: Mapping[str, config.Source], seed: int) -> EvaluationData:
    """Read sets of triplets and XNLI sets."""
    return {name: sources.load(name, source, seed) for name, source in named.items()}  # type: ignore[misc]


def outcomes(model: SentenceTransformer, data: sets.Triplets | sets.Xnli) -> Outcomes:
    """Discordance of a set, all of whose texts are encoded."""
    return discordant(data, encode_queries(model, data.queries), encode_passages(model, data.passages))


def encode_queries(model: SentenceTransformer, texts: list[str]) -> npt.NDArray[Any]:
    return model.encode_query(texts, normalize_embeddings=True, show_progress_bar=False)  # type: ignore[no-any-return]


def encode_passages(model: SentenceTransformer, texts: list[str]) -> npt.NDArray[Any]:
    return model.encode_document(texts, normalize_embeddings=True, show_progress_bar=False)  # type: ignore[no-any-return]


def discordant(data: sets.Triplets | sets.Xnli, queries: npt.NDArray[Any], passages: npt.NDArray[Any]) -> Outcomes:
    """Discordance of each triplet, from the unit-length embeddings of the set's queries and passages."""
    if isinstance(data, sets.Triplets):
        query, positive, negative = queries[data.query], passages[data.positive], passages[data.negative]
        return (query * negative).sum(-1) >= (query * positive).sum(-1)  # type: ignore[no-any-return]
    entailed, *others = (
        np.einsum("nxd,nyd->nxy", queries[data.premise], passages[hypotheses])
        for hypotheses in (data.entailment, data.neutral, data.contradiction)
    )
    return np.stack([other >= entailed for other in others], axis=1)


def increase(before: Outcomes, after: Outcomes) -> float:
    """The increase of discordant triplets in percent."""
    return 100.0 * (int(after.sum()) - int(before.sum())) / int(before.sum())
