"""Promises about an accuracy drop that hold at a stated confidence with finitely many samples.

Learn then Test (Angelopoulos et al. 2021): each operating point is a hypothesis "its drop exceeds the target", tested
along a fixed sequence from safe to daring; the last one rejected before the first failure may be promised. The test is
exact for paired answers: b right answers lost and c won among n samples give Tango's score statistic (1998), whose
chance of being so low is computed for every share of discordant pairs that the data leave possible (Berger and Boos
1994), and the largest counts.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.evaluation.simulation import Numbers

Counts = NDArray[np.int64]

_GAMMA_SHARE = 0.02  # of the error, spent on bounding the share of discordant pairs
_SHARES_TRIED = 13  # of discordant pairs, between the target and the bound
_SPREAD = 6.0  # standard deviations of each count that are summed; what lies beyond is added to the result


def p_value(lost: int, won: int, samples: int, target: float, *, error: float = 0.1) -> float:
    """Bound the chance of so small a loss if the true drop exceeded ``target``.

    Args:
        lost: Samples that only the reference answered rightly.
        won: Samples that only the policy answered rightly.
        samples: All samples.
        target: Accuracy drop, 0..1.
        error: Level that the result will be compared with; shapes the test, which is valid for any.
    """
    if target >= 1 or samples == 0:
        return 1.0
    gamma = error * _GAMMA_SHARE
    bound = _upper_share(lost + won, samples, gamma)
    if bound <= target:
        return gamma
    observed = float(_score(np.array(lost), np.array(won), samples, target))
    shares = np.linspace(target, bound, _SHARES_TRIED)[1:]
    return min(1.0, gamma + max(_tail(observed, samples, float(share), target) for share in shares))


def upper_drop(lost: int, won: int, samples: int, *, error: float = 0.1) -> float:
    """Give the smallest drop that is certified at confidence 1 - error."""
    low, high = max(-1.0, (lost - won) / max(1, samples)), 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if middle > 0 and p_value(lost, won, samples, middle, error=error) <= error:
            high = middle
        else:
            low = middle
    return high


def samples_needed(drop: float, discordant: float, target: float, *, error: float = 0.1) -> int | None:
    """Estimate how many samples would certify ``target`` for a policy with this drop and share of discordant pairs."""
    if drop >= target:
        return None
    low, high = 50, 200
    while not _would_certify(high, drop, discordant, target, error):
        low, high = high, high * 2
        if high > 10_000_000:
            return None
    while high - low > max(10, low // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if _would_certify(middle, drop, discordant, target, error) else (middle, high)
    return high


def longest_certified(harms: list[Numbers], target: float, *, error: float = 0.1) -> int:
    """Walk a path from safe to daring; gives how many points from its start may be promised.

    Args:
        harms: For each point, 1, 0 or -1 per sample [N]: a right answer lost, none, one won.
        target: Accuracy drop, 0..1.
        error: One minus the confidence of the promise.
    """
    for place, harm in enumerate(harms):
        if p_value(int((harm > 0).sum()), int((harm < 0).sum()), len(harm), target, error=error) > error:
            return place
    return len(harms)


def _would_certify(samples: int, drop: float, discordant: float, target: float, error: float) -> bool:
    pairs = discordant * samples
    lost, won = round((pairs + drop * samples) / 2), round((pairs - drop * samples) / 2)
    return p_value(max(0, lost), max(0, won), samples, target, error=error) <= error


def _score(lost: Counts, won: Counts, samples: int, target: float) -> Numbers:
    """Tango's statistic: the excess of the drop over ``target``, in standard errors at the likeliest null."""
    linear = 2 * (samples - lost - won) * target - (lost + won) * (1 - target) + 2 * won * target
    root = np.sqrt(linear**2 + 8 * samples * won * target * (1 - target))
    won_share = (root - linear) / (4 * samples)  # the likeliest P(won) given P(lost) - P(won) = target
    spread: Numbers = np.sqrt(np.maximum(samples * (2 * won_share + target - target**2), 1e-12))
    excess: Numbers = (lost - won - samples * target) / spread
    return excess


def _tail(observed: float, samples: int, share: float, target: float) -> float:
    """P(statistic <= observed) with P(lost) - P(won) = target and P(lost) + P(won) = share."""
    chances = (share + target) / 2, (share - target) / 2
    lost, won = (_likely(samples, chance) for chance in chances)
    lost, won = lost[:, None], won[None, :]
    neither = samples - lost - won
    possible = neither >= 0
    table = _log_factorials(1 << max(10, int(samples).bit_length()))
    logs = table[samples] - table[lost] - table[won] - table[np.maximum(neither, 0)]
    logs = logs + _log_power(chances[0], lost) + _log_power(chances[1], won) + _log_power(1 - share, neither)
    weights = np.where(possible, np.exp(np.where(possible, logs, 0)), 0)  # [lost, won]
    is_as_low = _score(lost, won, samples, target) <= observed + 1e-9
    return float(weights[is_as_low & possible].sum() + max(0.0, 1 - weights.sum()))


def _likely(samples: int, chance: float) -> Counts:
    middle, deviation = samples * chance, math.sqrt(samples * chance * (1 - chance)) + 1
    return np.arange(max(0, int(middle - _SPREAD * deviation)), min(samples, int(middle + _SPREAD * deviation)) + 1)


def _upper_share(successes: int, samples: int, error: float) -> float:
    """Clopper-Pearson upper bound."""
    low, high = successes / samples, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _binomial_cdf(successes, samples, middle) <= error else (middle, high)
    return high


def _binomial_cdf(most: int, trials: int, chance: float) -> float:
    if most < 0:
        return 0.0
    if most >= trials:
        return 1.0
    counts = np.arange(most + 1)
    logs = _log_choose(trials, counts) + _log_power(chance, counts) + _log_power(1 - chance, trials - counts)
    return float(min(1.0, np.exp(logs).sum()))


def _log_choose(total: int, counts: Counts) -> Numbers:
    table = _log_factorials(1 << max(10, int(total).bit_length()))
    return table[total] - table[counts] - table[total - counts]  # type: ignore[no-any-return]


def _log_power(base: float, exponents: Counts) -> Numbers:
    if base <= 0:
        return np.where(exponents == 0, 0.0, -np.inf)
    logs: Numbers = exponents.astype(np.float64) * math.log(base)
    return logs


@lru_cache(maxsize=4)
def _log_factorials(size: int) -> Numbers:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])
