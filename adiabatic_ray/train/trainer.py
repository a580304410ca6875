"""Trains one displacement with Accelerate, from one evaluation point to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import accelerate
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor

from adiabatic_ray import config, errors
from adiabatic_ray.data import triplets
from adiabatic_ray.data.sets import Rows, Triplets
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.model.displacement import Displacement, trained
from adiabatic_ray.model.encoder import Encode, Encoder
from adiabatic_ray.train import graphs
from adiabatic_ray.train import step as steps
from adiabatic_ray.train.shares import Shares

STEPS_PER_CHECK = 20  # steps between two checks for divergence; on a GPU each check waits for the device
DIVERGED = 1.0  # a relative norm: a displacement as large as the weights leaves nothing of the encoder


@dataclass(frozen=True)
class TrainingData:
    """Triplets with the token ids of their distinct queries, and the embeddings `[p, d]` of their distinct passages."""

    triplets: Triplets
    tokens: Sequence[Sequence[int]]
    passages: Tensor

    @classmethod
    def prepare(cls, data: Triplets, passages: Tensor, encoder: Encoder) -> TrainingData:
        """Tokenize the queries of `data`; `passages` are the embeddings of its passages."""
        return cls(data, encoder.tokenize(data.queries, "query"), passages)


class Trainer:
    """Trains a displacement, and holds the state of training between two steps.

    Raises:
        MaskError: `settings.freeze` does not fit the encoder, or leaves nothing to `settings.rank`.
        ConfigError: `settings.mixed_precision` does not fit the device.
    """

    def __init__(self, encoder: Encoder, data: TrainingData, settings: config.Train, seed: int) -> None:
        # Accelerate keeps one state per process; trials that follow each other in it may differ in precision.
        AcceleratorState._reset_state()
        GradientState._reset_state()
        if settings.mixed_precision == "fp16" and encoder.device.type == "cpu":  # Accelerate would train in float32
            raise errors.ConfigError("train.mixed_precision: `fp16` needs a GPU; on a CPU use `no` or `bf16`.")
        self.accelerator = accelerate.Accelerator(
            cpu=encoder.device.type == "cpu",
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
        )
        self.shares = Shares(self.accelerator)
        self.encoder, self.data, self.settings, self.seed = encoder, data, settings, seed
        names = trained(encoder, settings.freeze, settings.rank)
        self.model = Displacement(encoder, names, settings.rank, seed)
        self.optimizer = steps.optimizer(list(self.model.deltas), settings)
        # In evaluation mode Accelerate does not wrap the model for several processes: `Shares` does that work.
        self.prepared = self.accelerator.prepare_model(self.model, evaluation_mode=True)
        self.optimizer = self.accelerator.prepare_optimizer(self.optimizer)
        self.loss = steps.loss_function(settings, encoder.device, encoder.similarity)
        # A graph cannot gather from other processes, would not draw the same dropout again after a resume, and cannot
        # wait for the GPU, as a pooling without the prompt and a table of token embeddings do.
        alone = self.accelerator.num_processes == 1 and not encoder.waits
        self.graphed = encoder.device.type == "cuda" and alone and not settings.dropout
        self.backward: graphs.Backward = self._backward
        if self.graphed:
            self.backward = graphs.CudaGraphs(self._backward, list(self.model.deltas))
        every = settings.loss == "infonce"
        self.batch = triplets.of_examples(data.triplets, settings.batch_size, seed, every_negative=every)
        self.step = 0
        self._interval: list[float] = []  # losses since the last evaluation point

    def advance(self, until: int) -> str | None:
        """Train up to step `until`. Return the reason if training diverged on the way, else `None`."""
        self._interval = []
        self.encoder.module.train(self.settings.dropout)
        pending: list[Tensor] = []
        try:
            while self.step < until:
                pending.append(self._train_step())
                self.step += 1
                if len(pending) == STEPS_PER_CHECK or self.step == until:
                    if trouble := self._check(pending):
                        return trouble
                    pending = []
        finally:
            self.encoder.module.eval()
        return None

    def _train_step(self) -> Tensor:
        if self.settings.dropout:
            torch.manual_seed(self.seed * 1_000_003 + self.step + 7_919 * self.accelerator.process_index)
        for group in self.optimizer.param_groups:
            group["lr"] = steps.learning_rate(self.settings, self.step)
        accumulated = self.settings.gradient_accumulation_steps
        loss = torch.zeros((), device=self.encoder.device)
        for micro in range(accumulated):
            chosen = self.batch(self.step * accumulated + micro)
            with self.accelerator.accumulate(self.prepared):
                micro_loss = self.backward(*self._batch(chosen))
                if self.accelerator.sync_gradients:
                    self.shares.sum_gradients(list(self.model.deltas))
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=not self.graphed)
            loss += micro_loss / accumulated
        return loss

    def _batch(self, chosen: Rows) -> tuple[Tensor, ...]:
        """The tokens of this process's queries, their mask, and the rest of the whole batch, all on the device."""
        data, device = self.data.triplets, self.encoder.device
        rows, all_of_them = chosen[:, 0], chosen.ravel()
        queries = [self.data.tokens[i] for i in self.shares.own(data.query[rows])]
        tokens = self.encoder.collate(queries, graphs.WIDTH if self.graphed else 1)
        positive = torch.from_numpy(data.positive[rows])
        negative = torch.from_numpy(data.negative if data.pairs else data.negative[all_of_them])
        unused = positive[:, None] == torch.cat([positive, negative])
        unused[:, len(rows) :] |= torch.from_numpy(all_of_them[: len(negative)] < 0)
        passages = (self.data.passages[side].to(device) for side in (positive, negative))
        margins = torch.zeros(0) if data.margins is None else torch.from_numpy(data.margins[rows])
        return tokens["input_ids"], tokens["attention_mask"], *passages, unused.to(device), margins.to(device)

    def _backward(self, ids: Tensor, mask: Tensor, *batch: Tensor) -> Tensor:
        """Add a batch's gradients to the displacement's, and return the loss."""
        own = self.prepared({"input_ids": ids, "attention_mask": mask})
        positive, negative, unused, margins = batch
        loss = self.loss(self.shares.whole(own, len(positive)), positive, negative, unused, margins)
        self.accelerator.backward(loss)
        return loss.detach()

    def _check(self, pending: list[Tensor]) -> str | None:
        losses = torch.stack(pending).tolist()
        self._interval += losses
        mean = sum(losses) / len(losses)
        if not math.isfinite(mean):
            return f"the loss is {mean} at step {self.step}"
        relative = self.model.norms()["displacement/relative"]
        if not relative < DIVERGED:
            return f"the displacement is {relative:.3g} times as large as the weights at step {self.step}"
        return None

    def losses(self) -> dict[str, float]:
        """The mean loss since the last evaluation point, as a metric. Empty if no loss is finite."""
        finite = [loss for loss in self._interval if math.isfinite(loss)]
        return {"loss": sum(finite) / len(finite)} if finite else {}

    def scaled(self, scale: float) -> Encode:
        """The query encoder with the current displacement times `scale`, always in float32."""
        with torch.no_grad():
            weights = self.model.weights(scale)
        return lambda texts: self.shares.whole(
            self.encoder.encode(self.shares.own(texts), "query", weights), len(texts)
        )

    def state(self) -> Checkpoint:
        """Everything that `restore` needs to go on with the same results."""
        tensors = {f"delta/{name}": tensor for name, tensor in self.model.tensors().items()}
        optimizer_steps = 0.0
        for name, delta in zip(self.model.names, self.model.deltas, strict=True):
            moments = self.optimizer.state[delta]
            optimizer_steps = float(moments["step"])
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}/{name}"] = moments[moment].to("cpu", copy=True)
        scaler = self.accelerator.scaler
        values = {
            "step": self.step,
            "optimizer_steps": optimizer_steps,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        return Checkpoint(tensors, values)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from the state of an earlier trainer with the same settings."""
        self.model.load(checkpoint.part("delta"))
        for moment in ("exp_avg", "exp_avg_sq"):
            stored = checkpoint.part(moment)
            for name, delta in zip(self.model.names, self.model.deltas, strict=True):
                self.optimizer.state[delta][moment] = stored[name].to(delta.device)
                self.optimizer.state[delta]["step"] = torch.tensor(
                    checkpoint.values["optimizer_steps"], device=delta.device
                )
        if checkpoint.values["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.values["scaler"])
        self.step = checkpoint.values["step"]

    def close(self) -> None:
        """Free the memory for the next trial in this process."""
        self.encoder.module.eval()
        del self.backward  # which refers to this trainer
        self.accelerator.free_memory()
