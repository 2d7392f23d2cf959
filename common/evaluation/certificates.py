"""Promises about an accuracy drop that hold at a stated confidence with finitely many samples.

Learn then Test (Angelopoulos et al. 2021): each operating point is a hypothesis "its drop exceeds the target", tested
along a fixed sequence from safe to daring; the last one rejected before the first failure may be promised. The test is
exact for paired answers: b right answers lost and c won among n samples give Tango's score statistic (1998), whose
chance of being so low is computed for every share of discordant pairs that the data leave possible (Berger and Boos
1994), and the largest counts.
"""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from common.evaluation.simulation import Numbers
from common.routing.evidence import Bools

Counts = NDArray[np.int64]

_GAMMA_SHARE = 0.02  # of the error, spent on bounding the share of discordant pairs
_SHARES_TRIED = 13  # of discordant pairs, between the target and the bound
_HALVINGS = 12
_ROUNDING = 1e-9
_FEW = 3000  # further answers whose luck is summed exactly
_SPREAD = 6.0  # standard deviations of each count that are summed; what lies beyond is added to the result


def p_value(lost: int, won: int, samples: int, target: float, *, error: float = 0.1, over: int | None = None) -> float:
    """Bound the chance of so small a loss if the drop exceeded ``target``.

    With ``over``, the drop is the one counted over that many further answers. Half of the error is then left for their
    own luck: the hypothesis is that they exceed the target with more than that chance.

    Args:
        lost: Samples that only the reference answered rightly.
        won: Samples that only the policy answered rightly.
        samples: All samples.
        target: Accuracy drop, 0..1.
        error: Level that the result will be compared with; shapes the test, which is valid for any.
        over: Number of further answers; None is the long run.
    """
    if target >= 1 or samples == 0:
        return 1.0
    gamma = error * _GAMMA_SHARE
    bound = _upper_share(lost + won, samples, gamma)
    if bound <= target:
        return gamma
    lattice = _Lattice(samples, target, bound)
    is_as_low = lattice.scores <= float(_score(np.array(lost), np.array(won), samples, target)) + _ROUNDING
    shares = np.linspace(target, bound, _SHARES_TRIED)[1:].tolist()
    if over is None:
        return min(1.0, gamma + max(lattice.chance(is_as_low, share, target) for share in shares))
    riskiest = _Luck(over, target, bound, error / 2)
    broken = (lattice.chance(is_as_low, share, riskiest.least_drop(share)) for share in shares)
    return min(1.0, 2 * (gamma + max(broken)))


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
    """Estimate how many samples would certify ``target`` every second time, at this drop and share of discordant pairs.

    By the normal approximation, within a few per cent of the exact test; None where the drop is no smaller.
    """
    if drop >= target:
        return None
    deviations = NormalDist().inv_cdf(1 - error)
    return max(math.ceil(math.log(1 / error) / target), math.ceil(discordant * (deviations / (target - drop)) ** 2))


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


def _score(lost: Counts, won: Counts, samples: int, target: float) -> Numbers:
    """Tango's statistic: the excess of the drop over ``target``, in standard errors at the likeliest null."""
    linear = 2 * (samples - lost - won) * target - (lost + won) * (1 - target) + 2 * won * target
    root = np.sqrt(linear**2 + 8 * samples * won * target * (1 - target))
    won_share = (root - linear) / (4 * samples)  # the likeliest P(won) given P(lost) - P(won) = target
    spread: Numbers = np.sqrt(np.maximum(samples * (2 * won_share + target - target**2), 1e-12))
    excess: Numbers = (lost - won - samples * target) / spread
    return excess


class _Lattice:
    """All likely counts of answers lost [B, 1] and won [1, C] among n, for shares of discordant pairs up to a bound."""

    def __init__(self, samples: int, target: float, bound: float) -> None:
        self.lost = np.arange(_most(samples, (bound + 2 * target) / 2) + 1)[:, None]
        self.won = self.lost.T
        self.neither = samples - self.lost - self.won
        table = _log_factorials(1 << max(10, int(samples).bit_length()))
        ways = table[samples] - table[self.lost] - table[self.won] - table[np.maximum(self.neither, 0)]
        self.log_ways: Numbers = np.where(self.neither >= 0, ways, -np.inf)
        self.scores = _score(self.lost, self.won, samples, target)

    def chance(self, event: Bools, share: float, drop: float) -> float:
        """Bound the chance of an event if P(lost) - P(won) = drop and P(lost) + P(won) = share; all else counts too."""
        logs = self.log_ways + _log_power((share + drop) / 2, self.lost) + _log_power((share - drop) / 2, self.won)
        weights = np.exp(logs + _log_power(1 - share, self.neither))
        return float(weights[event].sum() + max(0.0, 1 - weights.sum()))


class _Luck:
    """Chance that so many further answers exceed the target: exact for few, by the normal approximation for many."""

    def __init__(self, samples: int, target: float, bound: float, risk: float) -> None:
        self._samples, self._target, self._risk = samples, target, risk
        self._lattice = _Lattice(samples, target, bound) if samples <= _FEW else None

    def least_drop(self, share: float) -> float:
        """Give the smallest true drop that exceeds the target with a chance above the risk."""
        if self._lattice is None:
            margin = NormalDist().inv_cdf(1 - self._risk) * math.sqrt(share / self._samples)
            return max(-share, self._target - margin)
        is_over = self._lattice.lost - self._lattice.won > self._target * self._samples + _ROUNDING
        low, high = -share, share
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self._lattice.chance(is_over, share, middle) > self._risk else (middle, high)
        return low


def _most(samples: int, chance: float) -> int:
    """A count that is hardly ever exceeded."""
    return min(samples, math.ceil(samples * chance + _SPREAD * math.sqrt(samples * chance) + _SPREAD))


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
