"""The training loop: one stage from its first step, or its last checkpoint, to its end."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.checkpoints import Checkpoints, Position
from cloud_worker.training.losses import Objective, exit_loss
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.progress import Progress

_EVALUATION_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast a stage learns."""

    epochs: int
    batch_size: int = 64
    learning_rate: float = 5e-5  # of the backbone, at its peak
    head_learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.06  # share of all steps
    average_share: float = 0.0  # horizon of the running average of weights, as a share of all steps; 0 = none
    checkpoint_steps: int = 300
    seed: int = 0
    bfloat16: bool = True

    def rate(self, step: int, total: int) -> float:
        """Share of the peak learning rate at a step: linear warm-up, then linear decay to zero."""
        warmup = max(1, math.ceil(self.warmup * total))
        return min((step + 1) / warmup, (total - step) / max(1, total - warmup))


class Stage:
    """Trains a network for one objective; resumes by itself where a checkpoint lies."""

    def __init__(
        self,
        network: MultiExitNetwork,
        texts: EncodedTexts,
        *,
        objective: Objective,
        schedule: Schedule,
        checkpoints: Checkpoints,
        teacher_logits: Tensor | None = None,  # [N, C]
    ) -> None:
        self._network = network
        self._texts = texts
        self._objective = objective
        self._schedule = schedule
        self._checkpoints = checkpoints
        self._teacher_logits = teacher_logits
        self._optimizer = _optimizer(network, schedule)
        self._average = {}
        if schedule.average_share > 0:
            self._average = {name: weight.detach().clone() for name, weight in _learning(network)}

    def run(self, progress: Progress, after_epoch: Callable[[int], None], *, stop_after: int | None = None) -> None:
        """Train to the end, or until ``stop_after`` steps; the network then holds the final (averaged) weights.

        Args:
            progress: Told of every step.
            after_epoch: Called with the epoch's number from 0, the averaged weights in place.
            stop_after: For tests of the resume: leave after that many steps, as a crash would.
        """
        torch.manual_seed(self._schedule.seed)
        position = self._checkpoints.restore(self._network, self._average, self._optimizer) or Position()
        steps_per_epoch = math.ceil(len(self._texts) / self._schedule.batch_size)
        total = steps_per_epoch * self._schedule.epochs
        for epoch, step, rows in self._steps_from(position):
            loss = self._learn(rows, position.steps, total)
            position = Position(epoch=epoch, step_in_epoch=step + 1, steps=position.steps + 1)
            progress.step(position.steps, total, loss)
            if step + 1 == steps_per_epoch:
                self._with_average(partial(after_epoch, epoch))
            if position.steps % self._schedule.checkpoint_steps == 0 or step + 1 == steps_per_epoch:
                self._checkpoints.save(self._network, self._average, self._optimizer, position)
            if position.steps == stop_after:
                return
        self._take_average()

    def _steps_from(self, position: Position) -> Iterator[tuple[int, int, list[int]]]:
        """Yield (epoch, step in it, rows) of every step still to take."""
        for epoch in range(position.epoch, self._schedule.epochs):
            batches = self._texts.shuffled(self._schedule.batch_size, self._schedule.seed, epoch)
            done = position.step_in_epoch if epoch == position.epoch else 0
            for step in range(done, len(batches)):
                yield epoch, step, batches[step]

    def _learn(self, rows: list[int], step: int, total: int) -> float:
        self._network.train()
        batch = self._texts.batch(rows)
        with autocast(enabled=self._schedule.bfloat16):
            logits = self._network(batch, self._objective.exits)  # [exits, B, C]
        taught = None if self._teacher_logits is None else self._teacher_logits[batch.rows]  # [B, C]
        loss = exit_loss(logits, batch.labels, taught, self._objective)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        rate = self._schedule.rate(step, total)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        self._optimizer.step()
        self._follow(total)
        return loss.item()

    def _follow(self, total: int) -> None:
        if self._average:
            pace = 1 / max(1.0, self._schedule.average_share * total)
            weights = [weight.detach() for _, weight in _learning(self._network)]
            torch._foreach_lerp_(list(self._average.values()), weights, pace)

    def _take_average(self) -> None:
        if self._average:
            for name, weight in _learning(self._network):
                weight.data.copy_(self._average[name])

    def _with_average(self, act: Callable[[], None]) -> None:
        live = {name: weight.detach().clone() for name, weight in _learning(self._network)}
        self._take_average()
        act()
        for name, weight in _learning(self._network):
            weight.data.copy_(live[name])


def predict(
    network: MultiExitNetwork, texts: EncodedTexts, exits: tuple[int, ...], *, bfloat16: bool = False
) -> NDArray[np.float32]:
    """Logits [exits, N, C] of every text, in the texts' order."""
    network.eval()
    logits = np.zeros((len(exits), len(texts), network.num_labels), dtype=np.float32)
    with torch.inference_mode(), autocast(enabled=bfloat16):
        for batch in texts.in_order_of_length(_EVALUATION_BATCH):
            logits[:, batch.rows.numpy()] = network(batch, exits).float().numpy()
    return logits


def autocast(*, enabled: bool) -> AbstractContextManager[None]:
    """Matrix products in bfloat16, where the processor has it: without, they take forty times as long as in float32."""
    has_it: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - torch tells it nowhere else
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled and has_it)


def _learning(network: MultiExitNetwork) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]


def _optimizer(network: MultiExitNetwork, schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW; decay on matrices alone, a rate of its own for the heads."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, weight in _learning(network):
        groups.setdefault((name.startswith("heads."), weight.ndim > 1), []).append(weight)
    return torch.optim.AdamW(
        [
            {
                "params": weights,
                "peak": schedule.head_learning_rate if is_head else schedule.learning_rate,
                "weight_decay": schedule.weight_decay if is_matrix else 0.0,
            }
            for (is_head, is_matrix), weights in groups.items()
        ],
        lr=schedule.learning_rate,
        fused=True,
    )
