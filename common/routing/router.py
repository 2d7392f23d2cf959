"""Routers learned by proxy supervision (Selective Query, Kag et al., ICLR 2023).

A head estimates how likely a deeper tier corrects this exit; a table of thresholds turns the estimate into a
decision, so a target of coverage or budget changes at run time without retraining.
"""

from typing import ClassVar

import msgspec
import numpy as np

from common.routing.arrays import Array
from common.routing.evidence import Bools, Entries, EntryEvidence, ExitEvidence, Floats, confidence, entropy
from common.routing.exits import all_on_device, nobody
from common.types import Fraction

MAX_GAPS = 10  # pairwise gaps of the largest probabilities, as published
_EDGE = 1e-6  # keeps log-odds finite


class RouterHead(msgspec.Struct, frozen=True, kw_only=True):
    """Logistic regression over what is computed anyway: features [F] to one probability."""

    projection: Array  # [state, K] of the pooled state or the mean embedding; K may be 0
    shift: Array  # [F], subtracted
    weights: Array  # [F]
    bias: float

    def score(self, features: Floats) -> Floats:
        """Estimate the probability [B] from raw features [B, F]."""
        logit = (features - self.shift.values) @ self.weights.values + np.float32(self.bias)
        probability: Floats = (1 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.float32)
        return probability


class LearnedRouter(msgspec.Struct, frozen=True, kw_only=True, tag="learned-router"):
    """An exit answers unless its head says that a deeper tier is likely to correct it."""

    heads: dict[int, RouterHead]  # by exit layer
    thresholds: dict[int, Fraction]  # answer where the score is at most this; without one never early
    entry: RouterHead | None = None  # scores the chance that the device will not answer
    max_entry_score: Fraction = 1.0  # above it an input enters the edge at once

    is_selective: ClassVar[bool] = True

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Start on the device, but for what it would very likely hand on."""
        if self.entry is None:
            return all_on_device(evidence)
        scores = self.entry.score(entry_features(evidence, self.entry.projection.values))
        return Entries(tiers=(scores > np.float32(self.max_entry_score)).astype(np.intp))

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Compare the head's score with its threshold."""
        threshold = self.thresholds.get(evidence.layer)
        if threshold is None or evidence.layer not in self.heads:
            return nobody(evidence)
        return self.scores(evidence) <= np.float32(threshold)

    def scores(self, evidence: ExitEvidence) -> Floats:
        """Estimate the chance [B] that a deeper tier corrects this exit."""
        head = self.heads[evidence.layer]
        return head.score(exit_features(evidence, head.projection.values))

    def threshold_at(self, layer: int) -> float | None:  # noqa: ARG002 - the contract
        """Ask for no confidence: the threshold is a chance that a deeper tier corrects this exit."""
        return None


def exit_features(evidence: ExitEvidence, projection: Floats) -> Floats:
    """Features [B, F] of an exit.

    Entropy, gaps of the top probabilities, log-odds of the first against the second, the class named, how surely each
    earlier exit agreed, and the projected pooled state.
    """
    batch, labels = evidence.probabilities.shape
    ordered = np.sort(evidence.probabilities, axis=1)[:, ::-1]  # [B, C]
    gaps = min(labels - 1, MAX_GAPS)
    agreement = _agreement(evidence)
    features = np.empty((batch, 2 + gaps + 2 * (labels - 1) + agreement.shape[1] + projection.shape[1]), np.float32)
    features[:, 0] = entropy(evidence.probabilities)
    features[:, 1 : 1 + gaps] = ordered[:, :gaps] - ordered[:, 1 : 1 + gaps]
    at = 1 + gaps
    odds = np.log((ordered[:, :1] + _EDGE) / (ordered[:, 1:2] + _EDGE))  # [B, 1]
    features[:, at] = odds[:, 0]
    named = evidence.probabilities.argmax(axis=1)[:, None] == np.arange(1, labels)  # [B, C - 1]
    features[:, at + 1 : at + labels] = named
    features[:, at + labels : at + 2 * labels - 1] = named * odds
    at += 2 * labels - 1
    features[:, at : at + agreement.shape[1]] = agreement
    features[:, at + agreement.shape[1] :] = evidence.pooled @ projection
    return features


def entry_features(evidence: EntryEvidence, projection: Floats) -> Floats:
    """Features [B, F] before any layer: logarithm of the length, and the projected mean embedding."""
    lengths = np.log(np.maximum(evidence.num_tokens, 1)).astype(np.float32)[:, None]
    return np.concatenate([lengths, evidence.features @ projection], axis=1)


def _agreement(evidence: ExitEvidence) -> Floats:
    """Log-odds of each earlier exit [B, earlier], positive where it named the same class; 0 where it did not run."""
    if evidence.earlier_confidences is None or not evidence.earlier.size:
        return np.zeros(evidence.earlier.shape, np.float32)
    sure = np.clip(evidence.earlier_confidences, _EDGE, 1 - _EDGE)
    same = np.where(evidence.earlier == evidence.probabilities.argmax(axis=1)[:, None], 1, -1)
    odds: Floats = np.where(evidence.earlier < 0, 0, same * (np.log(sure) - np.log1p(-sure))).astype(np.float32)
    return odds


def earlier_confidences(probabilities: Floats) -> Floats:
    """Top probabilities [B, exits] of what several exits said, [exits, B, C]."""
    return confidence(probabilities).T
