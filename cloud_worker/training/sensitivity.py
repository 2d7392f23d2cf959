"""Where a link starts: the directions of hidden states in which an error would matter most to the layers behind.

A transform code for the network rather than for its numbers: the principal axes of the hidden states in the metric of
the network's response, E[J'J] with the Jacobian J of what lies behind. An error of one step in one of these directions
costs as much as in any other, which is what the codec ``graded`` assumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloud_worker.training.lessons import Lesson, behind
from cloud_worker.training.network import MultiExitNetwork

_LESSONS = 4  # that the response is measured on; 16 take four times as long, for 0.4 points of 32 dimensions
_STATES_SHARE = 0.3  # of the hidden states behind, against the last exit's logits; chosen on kept-back texts
_LEAST = 1e-9  # variance, against a division by zero where there are fewer states than directions


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """A linear link of K directions, the most telling first."""

    mean: Tensor  # [H]
    encoder: Tensor  # [H, K]
    decoder: Tensor  # [K, H], of least error for what is left out


def sensitive_axes(
    network: MultiExitNetwork, given: Sequence[Lesson], split_point: int, count: int, random: torch.Generator
) -> Axes:
    """Give ``count`` directions by their variance in the metric of the network's response."""
    states = torch.cat([_tokens(lesson.hidden_states.float(), lesson) for lesson in given]).double()  # [N, H]
    covariance = states.T.cov()  # [H, H]
    root = _root(_response(network, given, split_point, random))
    found = torch.linalg.eigh(root @ covariance @ root)  # ascending
    spread, turned = (part.flip(-1)[..., :count] for part in found)  # [K], [H, K]
    encoder = root @ turned
    decoder = (covariance @ encoder / spread.clamp_min(_LEAST)).T
    return Axes(mean=states.mean(dim=0).float(), encoder=encoder.float(), decoder=decoder.float())


def _response(network: MultiExitNetwork, given: Sequence[Lesson], split_point: int, random: torch.Generator) -> Tensor:
    """Metric [H, H] of a token's hidden states: how strongly later states and the last exit's logits respond."""
    width = given[0].hidden_states.shape[2]
    of_states, of_logits = (torch.zeros((width, width), dtype=torch.float64) for _ in range(2))
    for lesson in given[:: -(-len(given) // _LESSONS)]:
        mask = lesson.attention_mask
        hidden = lesson.hidden_states.float().requires_grad_()
        found = behind(network, hidden, mask, split_point)
        logits, _ = network.heads[-1](found[-1], mask)
        contrast = torch.randn(logits.shape, generator=random)
        contrast = contrast - contrast.mean(dim=1, keepdim=True)  # a shift of all logits changes no answer
        of_logits += _squared(torch.autograd.grad((logits * contrast).sum(), hidden, retain_graph=True)[0], lesson)
        probed = torch.stack([_probed(_tokens(each, lesson), random) for each in found]).sum()
        of_states += _squared(torch.autograd.grad(probed, hidden)[0], lesson)
    metric = of_logits / of_logits.trace() + _STATES_SHARE * of_states / of_states.trace()
    return metric * (width / metric.trace())  # so that directions are about as long as orthonormal ones


def _probed(states: Tensor, random: torch.Generator) -> Tensor:
    """Sum states [N, H] with signs drawn: its gradient squared is on average all of theirs (Hutchinson 1989)."""
    signs = torch.randint(0, 2, states.shape, generator=random) * 2 - 1
    return (states * signs).sum() / states.std().detach()


def _squared(gradient: Tensor, lesson: Lesson) -> Tensor:
    each = _tokens(gradient, lesson).double()  # [N, H]
    return each.T @ each


def _tokens(states: Tensor, lesson: Lesson) -> Tensor:
    """Take the tokens [N, H] of [B, S, H], without padding."""
    return states[lesson.attention_mask.bool()]


def _root(metric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(metric)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
