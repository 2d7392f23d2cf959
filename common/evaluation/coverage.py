"""Learned routers against entropy at equal coverage, on samples that neither was fitted on (Selective Query).

Coverage is the share of inputs that an exit answers itself; the rest is answered by the last exit.
"""

import msgspec
import numpy as np

from common.evaluation.metrics import Bootstrap, Interval, interval
from common.evaluation.trace import Trace
from common.routing.evidence import Bools, Floats, Indices, entropy
from common.routing.router import LearnedRouter
from common.types import Depths

ASKED = (0.9, 0.8, 0.7)

_FOLDS = 5


class CoverageScore(msgspec.Struct, frozen=True, kw_only=True):
    """One exit at one coverage."""

    exit_layer: int
    asked: float  # 0..1
    achieved: float  # share that the router's threshold, chosen on other samples, let stay
    router_accuracy: float  # 0..1, of exit and last exit together, at exactly the asked coverage
    entropy_accuracy: float
    gain_points: float  # router less entropy
    interval: Interval  # of the gain, 95 %, paired bootstrap


def compare_at_coverage(
    held_out: Trace, router: LearnedRouter, depths: Depths, asked: tuple[float, ...] = ASKED
) -> list[CoverageScore]:
    """Score both ways of choosing what stays, at the ends of device and edge.

    Args:
        held_out: Samples that neither exits nor router were fitted on.
        router: Its thresholds do not count: each sample is judged by one from the other folds.
        depths: Of the tiers.
        asked: Coverages, 0..1.
    """
    folds = np.random.default_rng(0).permutation(len(held_out)) % _FOLDS
    return [
        score
        for layer in (depths.device, depths.edge)
        for score in _compare_exit(held_out, router, held_out.exits.index(layer), folds, asked=asked)
    ]


def _compare_exit(
    held_out: Trace, router: LearnedRouter, place: int, folds: Indices, *, asked: tuple[float, ...]
) -> list[CoverageScore]:
    doubts = entropy(held_out.probabilities()[place])  # [N]
    scores = router.scores(held_out.exit_evidence()[place])  # [N]
    is_right = held_out.predictions() == held_out.labels  # [E, N]
    found = []
    for share in asked:
        routed, reference = (
            np.where(_surest(doubt, share), is_right[place], is_right[-1]).astype(np.float64)
            for doubt in (scores, doubts)
        )
        gains = 100 * Bootstrap(len(held_out)).means((routed - reference)[:, None])
        found.append(
            CoverageScore(
                exit_layer=held_out.exits[place],
                asked=share,
                achieved=float(_stays_by_other_folds(scores, folds, share).mean()),
                router_accuracy=float(routed.mean()),
                entropy_accuracy=float(reference.mean()),
                gain_points=100 * float((routed - reference).mean()),
                interval=interval(gains),
            )
        )
    return found


def _stays_by_other_folds(scores: Floats, folds: Indices, share: float) -> Bools:
    """Say which samples [N] stay under a threshold that was chosen on the other folds."""
    thresholds = np.array([np.quantile(scores[folds != fold], share) for fold in range(_FOLDS)])
    stays: Bools = scores <= thresholds[folds]
    return stays


def _surest(doubts: Floats, share: float) -> Bools:
    """Mark the share [N] of samples with the least doubt."""
    chosen = np.zeros(len(doubts), np.bool_)
    chosen[np.argsort(doubts, kind="stable")[: round(share * len(doubts))]] = True
    return chosen
