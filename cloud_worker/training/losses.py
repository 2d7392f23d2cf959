"""The joint loss over exits: true labels, and a frozen teacher's opinion of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What the exits are trained for.

    Args:
        exits: Exit layers trained, ascending, 1..L.
        weights: Weight of each of them, positive; need not sum to one.
        distillation: Share of the teacher in the loss, 0..1.
        temperature: Softens teacher and exit before they are compared.
    """

    exits: tuple[int, ...]
    weights: tuple[float, ...]
    distillation: float = 0.0
    temperature: float = 2.0


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of every exit, [exits], of logits [exits, B, C] against labels [B]."""
    exits, batch, _ = logits.shape
    repeated = labels.expand(exits, batch).reshape(-1)  # [exits * B]
    per_item = F.cross_entropy(logits.flatten(0, 1), repeated, reduction="none")  # [exits * B]
    return per_item.view(exits, batch).mean(dim=1)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Divergence of every exit from the teacher, [exits], scaled by T^2 (Hinton et al. 2015, section 2).

    Args:
        logits: [exits, B, C].
        teacher_logits: [B, C].
        temperature: T, above zero.
    """
    target = (teacher_logits / temperature).softmax(dim=-1).expand_as(logits)  # [exits, B, C]
    opinion = (logits / temperature).log_softmax(dim=-1)  # [exits, B, C]
    per_item = F.kl_div(opinion, target, reduction="none").sum(dim=-1)  # [exits, B]
    return per_item.mean(dim=1) * temperature**2


def exit_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, objective: Objective) -> Tensor:
    """Weighted mean over exits of the label loss mixed with the distillation loss (joint training, as in PABEE).

    Args:
        logits: [exits, B, C], in the order of ``objective.exits``.
        labels: [B], class indices.
        teacher_logits: [B, C], or None when there is no teacher.
        objective: Weights and mixture.
    """
    logits = logits.float()
    per_exit = label_loss(logits, labels)  # [exits]
    if teacher_logits is not None and objective.distillation > 0:
        taught = distillation_loss(logits, teacher_logits, objective.temperature)  # [exits]
        per_exit = (1 - objective.distillation) * per_exit + objective.distillation * taught
    weights = as_tensor(objective.weights, logits)
    return (weights * per_exit).sum() / weights.sum()


def as_tensor(values: Sequence[float], like: Tensor) -> Tensor:
    """Copy numbers to the device and type of another tensor."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)
