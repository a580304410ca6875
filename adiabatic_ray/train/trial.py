"""One trial: adiabatic tuning of a query encoder on Accelerate, as a generator.

The generator yields at every evaluation point and goes on when asked for more; whoever drives it may stop at any yield,
keep the checkpoint, and later go on from it to the same numbers. It knows nothing of who drives it.

In a torch process group it is one trial on all of the group's processes, which must then be driven in step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import accelerate
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from adiabatic_ray import config, errors
from adiabatic_ray.data import triplets
from adiabatic_ray.data.sets import Rows, Triplets
from adiabatic_ray.model import freezing
from adiabatic_ray.model.checkpoint import Checkpoint
from adiabatic_ray.model.displacement import Displacement
from adiabatic_ray.model.encoder import Encode, Encoder
from adiabatic_ray.train import step as steps

Status = Literal["running", "complete", "diverged", "out_of_memory"]
Items = TypeVar("Items", Sequence[str], Rows)
Measurement = TypeVar("Measurement")  # what the evaluate callable that a trainer is handed returns

STEPS_PER_CHECK = 20  # how often a trial is looked at: on a GPU each look waits for the device
DIVERGED = 1.0  # a displacement as large as the weights themselves: what is left is no longer the encoder


@dataclass(frozen=True)
class TrainingData:
    """Triplets with the token ids of their distinct queries and the embeddings of their passages `[p, d]`."""

    triplets: Triplets
    tokens: Sequence[Sequence[int]]
    passages: Tensor

    @classmethod
    def prepare(cls, data: Triplets, passages: Tensor, encoder: Encoder) -> TrainingData:
        return cls(data, encoder.tokenize(data.queries, "query"), passages)


@dataclass(frozen=True)
class Progress(Generic[Measurement]):
    """Where a trial stands at an evaluation point; after any status but `running` nothing follows.

    A trial that ran out of memory or diverged has no measurement. One that is complete also has those of its
    displacement scaled down, by scale.
    """

    step: int
    steps: int
    status: Status
    metrics: dict[str, float] = field(default_factory=dict)
    measurement: Measurement | None = None
    scaled: Mapping[float, Measurement] = field(default_factory=dict)
    reason: str = ""
    checkpoint: Callable[[], Checkpoint] | None = None
    displacement: Displacement | None = None


def run(
    encoder: Encoder,
    data: TrainingData,
    settings: config.Train,
    measure: Callable[[Encode], Measurement],
    *,
    seed: int,
    resume: Checkpoint | None = None,
    scales: Sequence[float] = (),
) -> Generator[Progress[Measurement], None, None]:
    """Train a displacement of `encoder` and measure it at `settings.evaluations` evenly spaced points.

    Everything random depends on the seed (`settings.seed`, else `seed`) and the step alone, so that a resumed trial
    equals an unbroken one.

    Raises:
        MaskError: `settings.freeze` does not fit the encoder.
        ConfigError: `settings.mixed_precision` does not fit the device.
    """
    total = triplets.steps(settings, len(data.triplets))
    trainer: _Trainer | None = None
    try:
        trainer = _Trainer(encoder, data, settings, seed if settings.seed is None else settings.seed)
        if resume is not None:
            trainer.restore(resume)
        for point in _evaluation_points(total, settings.evaluations):
            if point <= trainer.step:
                continue
            started, first = time.perf_counter(), trainer.step
            trouble = trainer.advance(point)
            training_seconds = time.perf_counter() - started
            if trouble:
                yield Progress(trainer.step, total, "diverged", trainer.losses(), reason=trouble)
                return
            started = time.perf_counter()
            measurement = measure(trainer.scaled(1.0))
            metrics = (
                trainer.losses()
                | trainer.model.norms()
                | {
                    "time/seconds_per_step": training_seconds / (point - first),
                    "time/evaluation_seconds": time.perf_counter() - started,
                }
            )
            scaled = {scale: measure(trainer.scaled(scale)) for scale in scales} if point == total else {}
            yield Progress(
                point,
                total,
                "complete" if point == total else "running",
                metrics,
                measurement,
                scaled,
                checkpoint=trainer.state,
                displacement=trainer.model,
            )
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        reason = f"out of memory at batch size {settings.batch_size}: {errors.summary(error)}"
        yield Progress(trainer.step if trainer else 0, total, "out_of_memory", reason=reason)
    finally:
        if trainer is not None:
            trainer.close()


def default_device() -> torch.device:
    """The device that Accelerate chooses on this machine."""
    device: torch.device = accelerate.PartialState().device
    return device


def _evaluation_points(total: int, count: int) -> list[int]:
    return sorted({math.ceil(total * i / count) for i in range(1, count + 1)})


def _out_of_memory(error: BaseException) -> bool:
    # The CPU's allocator and CUDA libraries raise a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


class _Trainer:
    """The state of a trial between two steps."""

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
        self.encoder, self.data, self.settings, self.seed = encoder, data, settings, seed
        self.model = Displacement(encoder, freezing.trainable(settings.freeze, encoder.parameters))
        self.optimizer = steps.optimizer(list(self.model.deltas), settings)
        # In evaluation mode a model is not wrapped for several processes, which `_share_gradients` sees to.
        self.prepared = self.accelerator.prepare_model(self.model, evaluation_mode=True)
        self.optimizer = self.accelerator.prepare_optimizer(self.optimizer)
        self.loss = steps.loss_function(settings, encoder.device)
        self.batch = triplets.batches(len(data.triplets), settings.batch_size, seed)
        self.step = 0
        self._interval: list[float] = []  # losses since the last evaluation point

    # ---- training ----

    def advance(self, until: int) -> str | None:
        """Train up to step `until`; the reason when training diverged on the way."""
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
            rows = self.batch(self.step * accumulated + micro).numpy()
            with self.accelerator.accumulate(self.prepared):
                micro_loss = self._loss(rows)
                self.accelerator.backward(micro_loss)
                if self.accelerator.sync_gradients:
                    self._share_gradients()
                self.optimizer.step()
                self.optimizer.zero_grad()
            loss += micro_loss.detach() / accumulated
        return loss

    def _loss(self, rows: Rows) -> Tensor:
        data, device = self.data.triplets, self.encoder.device
        tokens = [self.data.tokens[i] for i in self._own(data.query[rows])]
        positive, negative = (torch.from_numpy(side[rows]) for side in (data.positive, data.negative))
        same = (positive[:, None] == torch.cat([positive, negative])).to(device)
        query = self._whole(self.prepared(self.encoder.collate(tokens)), len(rows))
        return self.loss(query, self.data.passages[positive].to(device), self.data.passages[negative].to(device), same)

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
        finite = [loss for loss in self._interval if math.isfinite(loss)]
        return {"loss": sum(finite) / len(finite)} if finite else {}

    # ---- evaluation ----

    def scaled(self, scale: float) -> Encode:
        """The query encoder under the current displacement times `scale`, always in float32."""
        with torch.no_grad():
            weights = self.model.weights(scale)
        return lambda texts: self._whole(self.encoder.encode(self._own(texts), "query", weights), len(texts))

    # ---- several processes ----
    #
    # Each embeds its share of a batch and learns the others' embeddings. So all compute the loss of the whole batch, of
    # any kind, and each the part of the gradient that goes through its own share; their sum is the whole gradient.

    def _own(self, items: Items) -> Items:
        """This process's share: every k-th of k."""
        return items[self.accelerator.process_index :: self.accelerator.num_processes]

    def _whole(self, own: Tensor, count: int) -> Tensor:
        """Embeddings `[count, d]` of all processes' shares in order; only its own carry a gradient."""
        processes = self.accelerator.num_processes
        if processes == 1:
            return own
        width = math.ceil(count / processes)
        padded = nn.functional.pad(own.to(self.accelerator.device), (0, 0, 0, width - len(own)))
        gathered: Tensor = self.accelerator.gather(padded.detach())
        shares = gathered.view(processes, width, -1).clone()
        shares[self.accelerator.process_index] = padded
        return shares.transpose(0, 1).reshape(processes * width, -1)[:count].to(own.device)

    def _share_gradients(self) -> None:
        if self.accelerator.num_processes == 1:
            return
        gradients = [delta.grad for delta in self.model.deltas if delta.grad is not None]
        summed = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
        for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    # ---- state ----

    def state(self) -> Checkpoint:
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
        """Give the memory back, so that the next trial in this process finds it free."""
        self.encoder.module.eval()
        self.accelerator.free_memory()
