"""Policies that decide before any layer has run: one tier for all, by lot, by the nearest pool."""

import hashlib
from functools import cached_property
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from common.routing.evidence import Bools, Entries, EntryEvidence, ExitEvidence, Floats
from common.routing.exits import Thresholds, is_confident, nobody
from common.types import POOLS, TIERS, Count, Fraction, Tier

_HASHED_FEATURES = 16
_ROUNDING = 1e3  # coarse enough that padding in a batch does not change the lot


class Fixed(msgspec.Struct, frozen=True, kw_only=True, tag="fixed"):
    """Everything enters one tier and is answered there: cloud-only, edge-only, device-only."""

    tier: Tier
    layer: int  # the tier's depth

    is_selective: ClassVar[bool] = False

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Send all to the one tier."""
        return Entries(tiers=np.full(len(evidence.num_tokens), TIERS.index(self.tier)))

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Answer at the tier's own depth."""
        return np.full(len(evidence.probabilities), evidence.layer == self.layer)

    def threshold_at(self, layer: int) -> float | None:  # noqa: ARG002 - the contract
        """Ask for nothing."""
        return None


class RandomEntry(msgspec.Struct, frozen=True, kw_only=True, tag="random"):
    """A lot drawn from the input itself names the tier, which answers: the control for every router."""

    shares: Annotated[tuple[Fraction, Fraction, Fraction], "device, edge, cloud"]
    seed: Count = 0

    is_selective: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares {self.shares} must sum to 1")

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Draw by the hash of an input's features, so that the same input always gets the same tier."""
        lots = np.array([_lot(row, self.seed) for row in evidence.features], np.float64)  # [B], 0..1
        tiers = np.searchsorted(np.cumsum(self.shares[:-1]), lots, side="right")
        return Entries(tiers=tiers.astype(np.intp))

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Answer at the entry tier's depth."""
        return np.full(len(evidence.probabilities), evidence.is_tier_end)

    def threshold_at(self, layer: int) -> float | None:  # noqa: ARG002 - the contract
        """Ask for nothing."""
        return None


class Dimee(msgspec.Struct, frozen=True, kw_only=True, tag="dimee", dict=True):  # a dict, for the cached points
    """The nearest pool's centroid names the entry tier (arXiv 2410.05338); with fallback, unsure exits escalate."""

    centroids: tuple[tuple[float, ...], ...]  # [3, hidden]: easy, moderate, hard
    thresholds: Thresholds
    has_fallback: bool
    offsets: tuple[float, float, float] = (0.0, 0.0, 0.0)  # added to the squared distances: priors of the pools

    POOL_TIERS: ClassVar[np.ndarray] = np.arange(len(POOLS))

    @property
    def is_selective(self) -> bool:
        """With fallback, unsure exits carry on."""
        return self.has_fallback

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Find the nearest centroid by Euclidean distance."""
        apart = evidence.features[:, None, :] - self._points  # [B, 3, H]
        squared: Floats = np.vecdot(apart, apart)  # [B, 3]
        pools = (squared + np.asarray(self.offsets, np.float32)).argmin(axis=1)  # [B]
        return Entries(tiers=self.POOL_TIERS[pools], pools=pools, distances=np.sqrt(squared))

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Without fallback, the entry tier has the last word, at its own depth."""
        if self.has_fallback:
            return is_confident(evidence, self.thresholds)
        return ~nobody(evidence) if evidence.is_tier_end else nobody(evidence)

    def threshold_at(self, layer: int) -> float | None:
        """Tell the exit's threshold, with fallback."""
        return self.thresholds.get(layer) if self.has_fallback else None

    @cached_property
    def _points(self) -> Floats:
        return np.asarray(self.centroids, np.float32)  # [3, H]


def _lot(features: Floats, seed: int) -> float:
    rounded = np.rint(features[:_HASHED_FEATURES] * _ROUNDING).astype("<i4")
    digest = hashlib.blake2b(rounded.tobytes(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") / 2**64
