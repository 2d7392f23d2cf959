"""Learned routers against entropy at equal coverage, on samples that neither was fitted on (Selective Query).

Coverage is the share of inputs that an exit answers itself; the rest is answered by the last exit.
"""

import msgspec
import numpy as np

from common.evaluation.metrics import Bootstrap, Interval, interval
from common.evaluation.trace import Trace
from common.routing.evidence import Bools, Floats, Indices, entropy
from common.routing.fit_router import fit_exit_head, proxy_labels
from common.routing.router import exit_features
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


def compare_at_coverage(held_out: Trace, depths: Depths, asked: tuple[float, ...] = ASKED) -> list[CoverageScore]:
    """Score both ways of choosing what stays, at the ends of device and edge.

    Each sample is scored by a router and judged by a threshold from the other folds.
    """
    folds = np.random.default_rng(0).permutation(len(held_out)) % _FOLDS
    return [
        score
        for layer in (depths.device, depths.edge)
        for score in _compare_exit(held_out, held_out.exits.index(layer), folds, asked)
    ]


def _compare_exit(held_out: Trace, place: int, folds: Indices, asked: tuple[float, ...]) -> list[CoverageScore]:
    scores, stays = _routed_by_other_folds(held_out, place, folds, asked)
    doubts = entropy(held_out.probabilities()[place])  # [N]
    is_right = held_out.predictions() == held_out.labels  # [E, N]
    found = []
    for share, stay in zip(asked, stays, strict=True):
        routed, reference = (
            np.where(_surest(doubt, share), is_right[place], is_right[-1]).astype(np.float64)
            for doubt in (scores, doubts)
        )
        gains = 100 * Bootstrap(len(held_out)).means((routed - reference)[:, None])
        found.append(
            CoverageScore(
                exit_layer=held_out.exits[place],
                asked=share,
                achieved=float(stay.mean()),
                router_accuracy=float(routed.mean()),
                entropy_accuracy=float(reference.mean()),
                gain_points=100 * float((routed - reference).mean()),
                interval=interval(gains),
            )
        )
    return found


def _routed_by_other_folds(
    held_out: Trace, place: int, folds: Indices, asked: tuple[float, ...]
) -> tuple[Floats, Bools]:
    """Scores [N] of routers fitted on the other folds, and what their thresholds let stay, [asked, N]."""
    scores, stays = np.zeros(len(held_out), np.float32), np.zeros((len(asked), len(held_out)), np.bool_)
    for fold in range(_FOLDS):
        inside, outside = held_out.select(folds != fold), held_out.select(folds == fold)
        is_right = inside.predictions() == inside.labels
        evidence = inside.exit_evidence()[place]
        head = fit_exit_head(evidence, proxy_labels(is_right[place], is_right[-1]))
        known, asked_for = (
            head.score(exit_features(said, head.projection.values))
            for said in (evidence, outside.exit_evidence()[place])
        )
        scores[folds == fold] = asked_for
        stays[:, folds == fold] = asked_for <= np.quantile(known, asked)[:, None]
    return scores, stays


def _surest(doubts: Floats, share: float) -> Bools:
    """Mark the share [N] of samples with the least doubt."""
    chosen = np.zeros(len(doubts), np.bool_)
    chosen[np.argsort(doubts, kind="stable")[: round(share * len(doubts))]] = True
    return chosen
