"""Policies: records with two pure methods, kept in a bundle's routing table by name."""

from typing import ClassVar, Protocol

import msgspec
import numpy as np

from common.routing.evidence import Bools, Entries, EntryEvidence, ExitEvidence, Floats, confidence
from common.types import POOLS, TIERS, Fraction, Tier

Thresholds = dict[int, Fraction]  # by exit layer; an exit without one never answers early


class Policy(Protocol):
    """Where an input enters, and whether an exit may answer."""

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Choose the entry tiers [batch]."""
        ...

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Say for each input [batch] whether this exit's answer is good enough; never asked at the last layer."""
        ...

    def threshold_at(self, layer: int) -> float | None:
        """Tell the confidence asked for at an exit, where there is one."""
        ...


class Fixed(msgspec.Struct, frozen=True, kw_only=True, tag="fixed"):
    """Everything enters one tier and is answered there: cloud-only, edge-only, device-only."""

    tier: Tier
    layer: int  # the tier's depth

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Send all to the one tier."""
        return Entries(tiers=np.full(len(evidence.num_tokens), TIERS.index(self.tier)))

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Answer at the tier's own depth."""
        return np.full(len(evidence.probabilities), evidence.layer == self.layer)

    def threshold_at(self, layer: int) -> float | None:  # noqa: ARG002 - the contract
        """Ask for nothing."""
        return None


class ConfidenceCascade(msgspec.Struct, frozen=True, kw_only=True, tag="confidence-cascade"):
    """Everyone starts on the device; an exit answers when its top probability reaches its threshold."""

    thresholds: Thresholds

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Start on the device."""
        return Entries(tiers=np.zeros(len(evidence.num_tokens), np.intp))

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Compare with the exit's threshold."""
        return _is_confident(evidence, self.thresholds)

    def threshold_at(self, layer: int) -> float | None:
        """Tell the exit's threshold."""
        return self.thresholds.get(layer)


class Dimee(msgspec.Struct, frozen=True, kw_only=True, tag="dimee"):
    """The nearest pool's centroid names the entry tier (arXiv 2410.05338); with fallback, unsure exits escalate."""

    centroids: tuple[tuple[float, ...], ...]  # [3, hidden]: easy, moderate, hard
    thresholds: Thresholds
    has_fallback: bool
    offsets: tuple[float, float, float] = (0.0, 0.0, 0.0)  # added to the squared distances: priors of the pools

    POOL_TIERS: ClassVar[np.ndarray] = np.arange(len(POOLS))

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Find the nearest centroid by Euclidean distance."""
        centroids = np.asarray(self.centroids, np.float32)  # [3, H]
        squared = ((evidence.features[:, None, :] - centroids[None]) ** 2).sum(axis=2)  # [B, 3]
        pools = (squared + np.asarray(self.offsets, np.float32)).argmin(axis=1)  # [B]
        return Entries(tiers=self.POOL_TIERS[pools], pools=pools, distances=np.sqrt(squared))

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Without fallback, the entry tier has the last word."""
        if not self.has_fallback:
            return np.full(len(evidence.probabilities), fill_value=True)
        return _is_confident(evidence, self.thresholds)

    def threshold_at(self, layer: int) -> float | None:
        """Tell the exit's threshold, with fallback."""
        return self.thresholds.get(layer) if self.has_fallback else None


AnyPolicy = Fixed | ConfidenceCascade | Dimee


class RoutingTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle's policies by name, and which of them is the default (``routing.json``)."""

    default: str
    policies: dict[str, AnyPolicy]


def _is_confident(evidence: ExitEvidence, thresholds: Thresholds) -> Bools:
    threshold = thresholds.get(evidence.layer)
    top: Floats = confidence(evidence.probabilities)
    return np.zeros(len(top), bool) if threshold is None else top >= np.float32(threshold)
