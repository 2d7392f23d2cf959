"""Whether promised drops are kept: held-out samples split anew, again and again, into calibration and test."""

import msgspec
import numpy as np

from common.errors import ConfigError
from common.evaluation.operating import Budget, Desk
from common.evaluation.scoring import Setting
from common.evaluation.simulation import simulate
from common.evaluation.trace import Trace
from common.routing.policies import AnyPolicy

TIMES = 20


class KeptPromise(msgspec.Struct, frozen=True, kw_only=True):
    """How one promise fared."""

    max_drop_points: float
    confidence: float
    calibration: int  # samples that the operating point was chosen on
    test: int  # samples that it was held to; the promise is over so many answers
    resplits: int
    refused: int  # nothing could be promised
    kept: int  # the drop over the test samples was within the promise, or nothing was promised
    mean_drop_points: float | None  # over the test samples, where something was promised
    mean_reduction: float | None  # of cost


def try_promise(
    held_out: Trace, setting: Setting, *, max_drop: float, calibration: int, confidence: float = 0.9, times: int = TIMES
) -> KeptPromise:
    """Promise a drop over the next answers on one random part, and count it on the rest.

    Args:
        held_out: Samples that training never saw.
        setting: Depths and cost.
        max_drop: Of accuracy, 0..1.
        calibration: Samples to choose on; the rest is the test.
        confidence: Of the promise.
        times: Number of random splits.
    """
    random = np.random.default_rng(1)
    drops: list[float] = []
    reductions: list[float] = []
    for _ in range(times):
        order = random.permutation(len(held_out))
        known, test = held_out.select(order[:calibration]), held_out.select(order[calibration:])
        try:
            promise = Desk(known, setting).choose(Budget(max_drop=max_drop), confidence=confidence, over=len(test))
        except ConfigError:  # the desk refuses rather than promise what it cannot keep
            continue
        drops.append(_drop(promise.policy, test, setting))
        reductions.append(promise.expected.reduction)
    refused = times - len(drops)
    return KeptPromise(
        max_drop_points=round(100 * max_drop, 6),
        confidence=confidence,
        calibration=calibration,
        test=len(held_out) - calibration,
        resplits=times,
        refused=refused,
        kept=refused + sum(drop <= max_drop for drop in drops),
        mean_drop_points=100 * float(np.mean(drops)) if drops else None,
        mean_reduction=float(np.mean(reductions)) if reductions else None,
    )


def _drop(policy: AnyPolicy, test: Trace, setting: Setting) -> float:
    answered = simulate(policy, test, setting.depths).predictions == test.labels
    return float((test.predictions()[-1] == test.labels).mean() - answered.mean())
