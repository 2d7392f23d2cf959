"""Routers learned by proxy supervision (Selective Query, Kag et al., ICLR 2023).

A head estimates how much a deeper tier would gain over this exit; a table of thresholds turns the estimate into a
decision, so a target of coverage or budget changes at run time without retraining.
"""

import msgspec
import numpy as np

from common.routing.arrays import Array
from common.routing.evidence import Bools, Entries, EntryEvidence, ExitEvidence, Floats, entropy
from common.routing.exits import all_on_device, nobody
from common.types import Fraction

MAX_GAPS = 10  # pairwise gaps of the largest probabilities, as published


class RouterHead(msgspec.Struct, frozen=True, kw_only=True):
    """A tiny network over what is computed anyway: features [F] to one probability."""

    projection: Array  # [pooled, K], K may be 0
    shift: Array  # [F], subtracted
    scale: Array  # [F], multiplied
    hidden: Array  # [F, J]; J = 0 makes the head linear
    hidden_bias: Array  # [J]
    output: Array  # [J + F]: hidden units, then the features themselves
    bias: float

    def score(self, features: Floats) -> Floats:
        """Estimate the probability [B] that asking deeper pays, from raw features [B, F]."""
        scaled = (features - self.shift.values) * self.scale.values  # [B, F]
        units = np.maximum(scaled @ self.hidden.values + self.hidden_bias.values, 0)  # [B, J]
        logit = np.concatenate([units, scaled], axis=1) @ self.output.values + np.float32(self.bias)
        return 1 / (1 + np.exp(-np.clip(logit, -30, 30)))  # type: ignore[no-any-return]


class LearnedRouter(msgspec.Struct, frozen=True, kw_only=True, tag="learned-router"):
    """An exit answers unless its head says that a deeper tier is likely to do better."""

    heads: dict[int, RouterHead]  # by exit layer
    thresholds: dict[int, Fraction]  # answer where the score is at most this; without one never early
    entry: RouterHead | None = None  # scores the chance that the device will not answer
    max_entry_score: Fraction = 1.0  # above it an input enters the edge at once

    def enter(self, evidence: EntryEvidence) -> Entries:
        """Start on the device, but for what it would very likely hand on."""
        if self.entry is None:
            return all_on_device(evidence)
        scores = self.entry.score(entry_features(evidence, self.entry.projection.values))
        return Entries(tiers=(scores > np.float32(self.max_entry_score)).astype(np.intp))

    def should_exit(self, evidence: ExitEvidence) -> Bools:
        """Compare the head's score with its threshold."""
        threshold, head = self.thresholds.get(evidence.layer), self.heads.get(evidence.layer)
        if threshold is None or head is None:
            return nobody(evidence)
        scores = head.score(exit_features(evidence, head.projection.values))
        return scores <= np.float32(threshold)

    def threshold_at(self, layer: int) -> float | None:  # noqa: ARG002 - the contract
        """Ask for no confidence: the threshold is a chance that a deeper tier corrects this one."""
        return None


def exit_features(evidence: ExitEvidence, projection: Floats) -> Floats:
    """Features [B, F]: entropy, gaps of the top probabilities, log-odds, class, projected pooled state."""
    ordered = np.sort(evidence.probabilities, axis=1)[:, ::-1]  # [B, C]
    gaps = (ordered[:, :-1] - ordered[:, 1:])[:, :MAX_GAPS]  # [B, up to 10]
    odds = np.log(ordered[:, :1] + 1e-6) - np.log(ordered[:, 1:2] + 1e-6)  # [B, 1]
    said = np.eye(evidence.probabilities.shape[1], dtype=np.float32)[evidence.probabilities.argmax(axis=1)]  # [B, C]
    by_class = (said * odds)[:, :-1] if said.shape[1] == 2 else said[:, :0]  # two labels may be sure in unlike ways
    state = evidence.pooled @ projection  # [B, K]
    return np.concatenate([entropy(evidence.probabilities)[:, None], gaps, odds, by_class, state], axis=1)


def entry_features(evidence: EntryEvidence, projection: Floats) -> Floats:
    """Features [B, F]: logarithm of the length, and the projected mean embedding."""
    lengths = np.log(np.maximum(evidence.num_tokens, 1)).astype(np.float32)[:, None]
    return np.concatenate([lengths, evidence.features @ projection], axis=1)
