"""Exit rules that start on the device and look at the exits alone: confidence, entropy, patience."""

from typing import ClassVar

import msgspec
import numpy as np

from common.routing.evidence import Bools, Entries, EntryEvidence, ExitEvidence, confidence, entropy
from common.types import Count, Fraction, NonNegative

Thresholds = dict[int, Fraction]  # by exit layer; an exit without one never answers early


class ConfidenceCascade(msgspec.Struct, frozen=True, kw_only=True, tag="confidence-cascade"):
    """Everyone starts on the device; an exit answers when its top probability reaches its threshold."""

    thresholds: Thresholds

    is_selective: ClassVar[bool] = True

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Start on the device."""
        return all_on_device(evidence)

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Compare with the exit's threshold."""
        return is_confident(evidence, self.thresholds)

    def threshold_at(self, layer: int) -> float | None:
        """Tell the exit's threshold."""
        return self.thresholds.get(layer)


class EntropyCascade(msgspec.Struct, frozen=True, kw_only=True, tag="entropy-cascade"):
    """Everyone starts on the device; an exit answers when its entropy is low (DeeBERT, Xin et al. 2020)."""

    thresholds: dict[int, NonNegative]  # nats, by exit layer; an exit without one never answers early

    is_selective: ClassVar[bool] = True

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Start on the device."""
        return all_on_device(evidence)

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Compare with the exit's threshold."""
        threshold = self.thresholds.get(evidence.layer)
        if threshold is None:
            return nobody(evidence)
        return entropy(evidence.probabilities) <= np.float32(threshold)

    def threshold_at(self, layer: int) -> float | None:  # noqa: ARG002 - the contract
        """Ask for no confidence: the threshold is an entropy."""
        return None


class Patience(msgspec.Struct, frozen=True, kw_only=True, tag="patience"):
    """Everyone starts on the device; answer once ``patience`` exits in a row repeat their predecessor (PABEE)."""

    patience: Count

    is_selective: ClassVar[bool] = True

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Start on the device."""
        return all_on_device(evidence)

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Count back from this exit while the predictions stay the same."""
        batch, num_earlier = evidence.earlier.shape
        if num_earlier < self.patience:
            return nobody(evidence)
        current = evidence.probabilities.argmax(axis=1)  # [B]
        recent = evidence.earlier[:, num_earlier - self.patience :]  # [B, patience]
        agrees: Bools = (recent == current[:, None]).reshape(batch, -1).all(axis=1)
        return agrees

    def threshold_at(self, layer: int) -> float | None:  # noqa: ARG002 - the contract
        """Ask for no confidence."""
        return None


def all_on_device(evidence: EntryEvidence) -> Entries:
    """Start everything on the device."""
    return Entries(tiers=np.zeros(len(evidence.num_tokens), np.intp))


def nobody(evidence: ExitEvidence) -> Bools:
    """Let nothing answer here."""
    return np.zeros(len(evidence.probabilities), bool)


def is_confident(evidence: ExitEvidence, thresholds: Thresholds) -> Bools:
    """Compare the top probability with the exit's threshold, where there is one."""
    threshold = thresholds.get(evidence.layer)
    if threshold is None:
        return nobody(evidence)
    return confidence(evidence.probabilities) >= np.float32(threshold)
