"""A thin link while it learns: encoder, decoder and a score of worth for every dimension.

Adaptive compression-aware split learning (Mudvari et al., arXiv 2311.05739): a dimension's gate is sigmoid(w)^2, for a
budget of B the B largest gates pass, and a bowl over their sum draws it to B. Here the B dimensions are a slice of the
link's matrices, so the gradient is masked as the values are, exactly B pass whatever the ties, and what is kept is
scaled in training as it is when served.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.wire.activations import CODES_PER_OCTAVE, DIMENSIONS_PER_LEVEL, MOST_BITS

_OPEN = 15.0  # a gate that will stay
_STAYS_OPEN = 0.9  # a score from which a reset leaves a gate open
_OUTLIER_SHARE = 16  # as the codec int4 of common/wire/activations.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Bowl:
    """Weight and steepness of the loss on the sum of gates."""

    weight: float = 1e-3
    steepness: float = 0.02  # the paper's code: 0.00075 to 0.1

    def loss(self, gates: Tensor, budget: int) -> Tensor:
        """Weigh exp(d(S - B)) + exp(-d(S - B)), whose minimum lies at S = B."""
        excess = self.steepness * (gates.sum() - budget)
        return self.weight * (excess.exp() + (-excess).exp())


class BudgetedLink(nn.Module):
    """Linear encoder and decoder of K dimensions, ordered by their gates."""

    mean: Tensor

    def __init__(self, mean: Tensor, encoder: Tensor, decoder: Tensor) -> None:
        """Start as the linear link of mean [H], encoder [H, K] and decoder [K, H], whatever the gates."""
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.worth = nn.Parameter(torch.linspace(4.0, 3.0, encoder.shape[1]))  # w of each dimension
        self.encoder = nn.Parameter(encoder.clone())
        self.decoder = nn.Parameter(decoder / self.gates.detach()[:, None])
        self.bias = nn.Parameter(mean.clone())

    @property
    def gates(self) -> Tensor:
        """sigmoid(w)^2 of every dimension, [K]."""
        return self.worth.sigmoid() ** 2

    def order(self) -> Tensor:
        """Dimensions [K] from the most to the least worth; equals keep their places."""
        return self.gates.detach().argsort(descending=True, stable=True)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, budget: int, codec: str = "float32") -> Tensor:
        """Send [B, S, H] through ``budget`` dimensions by a codec, and decode it."""
        kept = self.order()[:budget]
        thin = (hidden_states - self.mean) @ (self.encoder[:, kept] * self.gates[kept])  # [B, S, budget]
        return rounded(thin * attention_mask[:, :, None], codec) @ self.decoder[kept] + self.bias

    def reset(self, spread: float, random: torch.Generator) -> None:
        """Let dimensions compete anew: what is open stays open, the others draw a score from U(0, spread)."""
        with torch.no_grad():
            drawn = torch.rand(self.worth.shape, generator=random) * spread
            self.worth.copy_(torch.where(self.worth >= _STAYS_OPEN, torch.full_like(drawn, _OPEN), drawn))

    def arrays(self) -> dict[str, Tensor]:
        """Encoder, decoder, mean and bias as they are served: in order of worth, gates multiplied in."""
        order = self.order()
        return {
            "encoder": (self.encoder[:, order] * self.gates[order]).detach(),
            "decoder": self.decoder[order].detach(),
            "mean": self.mean,
            "bias": self.bias.detach(),
        }


def rounded(thin: Tensor, codec: str) -> Tensor:
    """Round [B, S, W] as the wire's codecs do; padding is zero; gradients pass straight through (Bengio 2013)."""
    match codec:
        case "int8":
            return _rounded(thin, 127)
        case "int4":
            outliers = max(1, thin.shape[-1] // _OUTLIER_SHARE)
            order = thin.detach().abs().flatten(0, -2).amax(dim=0).argsort(descending=True)
            coarse, fine = _rounded(thin[..., order[outliers:]], 7), _rounded(thin[..., order[:outliers]], 127)
            return torch.cat([fine, coarse], dim=-1)[..., order.argsort()]
        case "graded":
            return _graded(thin)
        case _:
            return thin


def _rounded(thin: Tensor, steps: int) -> Tensor:
    if not thin.shape[-1]:
        return thin
    scale = (thin.detach().abs().amax(dim=-1, keepdim=True) / steps).clamp_min(6.2e-5)
    return thin + ((thin / scale).round() * scale - thin).detach()


def _graded(thin: Tensor) -> Tensor:
    peaks = thin.detach().abs().amax(dim=-2, keepdim=True)  # [B, 1, W]
    codes = (peaks.clamp_min(1e-9).log2() * CODES_PER_OCTAVE).ceil()
    place = thin.shape[-1] // (2 * DIMENSIONS_PER_LEVEL) + 1  # from 1 in torch
    level = codes.kthvalue(place, dim=-1, keepdim=True).values  # [B, 1, 1]
    bits = ((codes - level) / CODES_PER_OCTAVE).floor().add(1).clamp(1, MOST_BITS)
    half = (bits - 1).exp2()
    step = (codes / CODES_PER_OCTAVE).exp2() / half
    middle = (torch.maximum(torch.minimum((thin.detach() / step).floor(), half - 1), -half) + 0.5) * step
    return thin + middle - thin.detach()
