"""What a policy may look at, and what it decides."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.types import POOLS, TIERS, Pool, Tier

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

_TINY = np.float32(1e-12)


class EntryEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """An input before any layer has run."""

    features: Floats  # [batch, hidden]: masked mean of the embedding output
    num_tokens: Indices  # [batch]


class Entries(msgspec.Struct, frozen=True, kw_only=True):
    """Where inputs enter, and how difficult they looked."""

    tiers: Indices  # [batch], positions in TIERS
    pools: Indices | None = None  # [batch], positions in POOLS
    distances: Floats | None = None  # [batch, 3], to the centroids of easy, moderate, hard

    def tier(self, item: int) -> Tier:
        """Name one input's entry tier."""
        return TIERS[int(self.tiers[item])]

    def pool(self, item: int) -> Pool | None:
        """Name one input's pool, where the policy has pools."""
        return None if self.pools is None else POOLS[int(self.pools[item])]


class ExitEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """What an exit head saw."""

    layer: int  # layers run so far
    probabilities: Floats  # [batch, labels], calibrated
    pooled: Floats  # [batch, pooled]: the state the head looked at
    earlier: Indices  # [batch, earlier exits]: class predicted at each, oldest first; -1 where none ran
    earlier_confidences: Floats | None = None  # [batch, earlier exits], calibrated; 0 where none ran
    is_tier_end: bool = True  # the running tier holds no further layer: not exiting means escalating


def softmax(logits: Floats, temperature: float | Floats = 1.0) -> Floats:
    """Calibrated probabilities [..., labels] of logits; a temperature each, [..., 1], or one for all."""
    divisor: Floats = np.asarray(temperature, np.float32)
    scaled: Floats = logits / divisor
    scaled -= np.maximum.reduce(scaled, axis=-1, keepdims=True)  # what max() gives, in half its time
    np.exp(scaled, out=scaled)
    scaled /= np.add.reduce(scaled, axis=-1, keepdims=True)
    return scaled


def confidence(probabilities: Floats) -> Floats:
    """Top probability [batch]."""
    return np.maximum.reduce(probabilities, axis=-1)  # type: ignore[no-any-return]


def entropy(probabilities: Floats) -> Floats:
    """Entropy [batch] in nats."""
    return -(probabilities * np.log(probabilities + _TINY)).sum(axis=-1)  # type: ignore[no-any-return]


def masked_mean(hidden_states: Floats, attention_mask: NDArray[np.int64]) -> Floats:
    """Mean over real tokens: [B, S, H] and [B, S] give [B, H]."""
    mask = attention_mask[:, :, None].astype(np.float32)  # [B, S, 1]
    return (hidden_states * mask).sum(axis=1) / mask.sum(axis=1)  # type: ignore[no-any-return]
