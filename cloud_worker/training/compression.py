"""The schedules that train a thin link behind which the network stays as it is: prune and deprune."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cloud_worker.training.lessons import Lesson, attended, behind
from cloud_worker.training.loop import autocast
from cloud_worker.training.network import MultiExitNetwork
from cloud_worker.training.progress import Progress
from cloud_worker.training.sensitivity import sensitive_axes
from cloud_worker.training.thin_link import Bowl, BudgetedLink
from common.errors import ConfigError

_LOGGER = logging.getLogger(__name__)
_WARMUP_STEPS = 20
_CODECS = ("graded", "graded", "int8", "int4")  # drawn from, at each step
_SHARES = (1.0, 0.5)  # of the tokens, likewise
_LOGITS_SHARE = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of the training in which the tightest of ``budgets`` is aimed at and all of them are used."""

    budgets: tuple[int, ...]  # the last one is aimed at
    share: float  # of all steps
    reset: float | None = None  # dimensions compete anew at its start, with scores from U(0, reset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a link learns."""

    phases: tuple[Phase, ...]
    from_axes: bool  # start from the axes that matter most to the layers behind, or from random directions
    steps: int = 400
    learning_rate: float = 3e-4
    bowl: Bowl = field(default_factory=Bowl)
    seed: int = 1

    def at(self, step: int) -> Phase:
        """Give the phase of a step."""
        done = 0.0
        for phase in self.phases:
            done += phase.share
            if step < math.ceil(done * self.steps - 1e-9):
                return phase
        return self.phases[-1]


def course(recipe: str, budgets: Sequence[int], *, steps: int, seed: int) -> Course:
    """Give a recipe for the budgets, ascending.

    ``prune`` starts from the closed form and closes in steps. ``deprune`` starts from random directions with the
    tightest budget and opens. ``fixed`` is what deprune is compared with: the tightest budget from scratch.

    Raises:
        ConfigError: No recipe has this name.
    """
    tight, wide = tuple(budgets[:1]), tuple(reversed(budgets))
    match recipe:
        case "prune":
            closing = [wide[: place + 1] for place in range(len(wide))]
            phases = tuple(Phase(budgets=opened, share=1 / len(closing)) for opened in closing)
            return Course(phases=phases, from_axes=True, steps=steps, seed=seed)
        case "deprune":
            middle = tuple(reversed(budgets[: math.ceil(len(budgets) / 2)]))
            phases = (
                Phase(budgets=tight, share=0.3),
                Phase(budgets=middle, share=0.3, reset=1.0),
                Phase(budgets=wide, share=0.4, reset=1.0),
            )
            return Course(phases=phases, from_axes=False, steps=steps, seed=seed, learning_rate=2e-3)
        case "fixed":
            return Course(
                phases=(Phase(budgets=tight, share=1.0),), from_axes=False, steps=steps, seed=seed, learning_rate=2e-3
            )
        case _:
            raise ConfigError(f"--recipe {recipe}: must be prune, deprune or fixed")


def start_link(
    network: MultiExitNetwork, given: Sequence[Lesson], split_point: int, most: int, *, plan: Course
) -> BudgetedLink:
    """Make the link that a course begins with, of ``most`` dimensions."""
    random = torch.Generator().manual_seed(plan.seed)
    if plan.from_axes:
        axes = sensitive_axes(network, given, split_point, most, random)
        return BudgetedLink(axes.mean, axes.encoder, axes.decoder)
    states = torch.cat([lesson.hidden_states.float()[lesson.attention_mask.bool()] for lesson in given])  # [N, H]
    basis, _ = torch.linalg.qr(torch.randn(states.shape[1], most, generator=random))
    return BudgetedLink(states.mean(dim=0), basis, basis.T)


def train_link(
    network: MultiExitNetwork, given: Sequence[Lesson], split_point: int, most: int, *, plan: Course, progress: Progress
) -> BudgetedLink:
    """Learn from lessons; the network's weights stay as they are.

    Args:
        network: Gives the layers and exits behind the link.
        given: Lessons at the split point.
        split_point: Layers run before the link.
        most: Dimensions of the link.
        plan: Phases, steps and rates.
        progress: Told of every step.
    """
    network.eval().requires_grad_(requires_grad=False)
    link = start_link(network, given, split_point, most, plan=plan)
    optimizer = torch.optim.AdamW(link.parameters(), lr=plan.learning_rate, weight_decay=0.0)
    draw = np.random.default_rng(plan.seed)
    random = torch.Generator().manual_seed(plan.seed)
    phase: Phase | None = None
    for step, lesson in enumerate(_endless(given, draw, plan.steps)):
        if plan.at(step) is not phase:
            phase = plan.at(step)
            if phase.reset is not None:
                link.reset(phase.reset, random)
        loss = _unlikeness(network, link, lesson, split_point, drawn=_draw(phase, draw))
        loss = loss + plan.bowl.loss(link.gates, phase.budgets[-1])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(link.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * min((step + 1) / _WARMUP_STEPS, (plan.steps - step) / plan.steps)
        optimizer.step()
        progress.step(step + 1, plan.steps, loss.item())
    return link


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """How thin one step's hidden states are."""

    budget: int
    codec: str
    share: float


def _draw(phase: Phase, draw: np.random.Generator) -> _Drawn:
    return _Drawn(
        budget=int(draw.choice(phase.budgets)), codec=str(draw.choice(_CODECS)), share=float(draw.choice(_SHARES))
    )


def _endless(given: Sequence[Lesson], draw: np.random.Generator, steps: int) -> Iterator[Lesson]:
    left: list[int] = []
    for _ in range(steps):
        left = left or draw.permutation(len(given)).tolist()
        yield given[left.pop()]


def _unlikeness(
    network: MultiExitNetwork, link: BudgetedLink, lesson: Lesson, split_point: int, *, drawn: _Drawn
) -> Tensor:
    """Mean squared difference of what comes behind the link from what comes without it.

    Of the hidden states after every layer, and a little of the last exit's logits. Labels and probabilities have no
    part in it: the network is so sure of the texts that it was trained on that they say little, and a link taught by
    them was a point worse on others.
    """
    hidden, mask, taught = lesson.hidden_states.float(), lesson.attention_mask, lesson.taught
    if drawn.share < 1:
        places, mask = attended(network, lesson, split_point, drawn.share)  # [B, K]
        wide = places[:, :, None].expand(-1, -1, hidden.shape[2])
        hidden, taught = hidden.gather(1, wide), tuple(each.gather(1, wide) for each in taught)  # [B, K, H]
    with autocast(enabled=True):
        found = behind(network, link(hidden, mask, drawn.budget, drawn.codec), mask, split_point)
    tokens = mask[:, :, None].float()
    squares = [((one.float() - other.float()) ** 2 * tokens).sum() for one, other in zip(found, taught, strict=True)]
    of_states = torch.stack(squares).mean() / (tokens.sum() * hidden.shape[2])
    said, meant = (network.heads[-1](states.float(), mask)[0] for states in (found[-1], taught[-1]))  # [B, C]
    off: Tensor = (said - meant) - (said - meant).mean(dim=1, keepdim=True)  # a shift of all logits changes no answer
    return of_states + _LOGITS_SHARE * off.square().mean()
