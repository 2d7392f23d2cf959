"""Which of several choices to run in the time that is left: the most accurate one that fits, else the fastest.

After MDInference (Ogden & Guo, IC2E 2020, arXiv 2002.06603): eligible is a choice whose
mean + gamma · deviation is below what the deadline leaves once the network has taken its part; profiles follow what is
measured, exponentially weighted.
"""

import math
from collections.abc import Sequence

import msgspec

WEIGHT = 0.5  # of a new measurement
GAMMA = 1.0  # deviations of caution


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """How long something takes; the first measurement is discarded, for first runs are slow."""

    mean_ms: float = 0.0
    variance: float = 0.0  # ms²
    measurements: int = 0

    @property
    def deviation_ms(self) -> float:
        """Standard deviation."""
        return math.sqrt(self.variance)

    def updated(self, measured_ms: float) -> "Profile":
        """Give the profile with one measurement more: m' = a·t + (1-a)·m, var' = (1-a)·(var + a·(t-m)²)."""
        match self.measurements:
            case 0:
                return Profile(measurements=1)
            case 1:
                return Profile(mean_ms=measured_ms, measurements=2)
        off_ms = measured_ms - self.mean_ms
        return Profile(
            mean_ms=self.mean_ms + WEIGHT * off_ms,
            variance=(1 - WEIGHT) * (self.variance + WEIGHT * off_ms * off_ms),
            measurements=self.measurements + 1,
        )

    def bound_ms(self, gamma: float = GAMMA) -> float:
        """Give mean + gamma · deviation: what it takes with some caution; 0 while unknown."""
        return self.mean_ms + gamma * self.deviation_ms


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Something that could be run: a depth or a variant of the bundle."""

    name: str
    accuracy: float  # 0..1
    profile: Profile


def remaining_ms(budget_ms: float, up_ms: float, down_ms: float | None = None) -> float:
    """Give what a budget leaves for computing; the way back is taken to be as long as the way there if unknown."""
    return budget_ms - up_ms - (up_ms if down_ms is None else down_ms)


def select(choices: Sequence[Choice], left_ms: float, *, gamma: float = GAMMA) -> Choice:
    """Give the most accurate choice whose mean + gamma · deviation is below ``left_ms``, else the fastest.

    Raises:
        ValueError: There is no choice.
    """
    if not choices:
        raise ValueError("nothing to select from")
    eligible = [choice for choice in choices if choice.profile.bound_ms(gamma) < left_ms]
    if not eligible:
        return min(choices, key=lambda choice: choice.profile.mean_ms)
    return max(eligible, key=lambda choice: (choice.accuracy, -choice.profile.mean_ms))
