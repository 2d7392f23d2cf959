"""Promised drops: the test is valid, exact where a hand can check it, and sharp."""

import numpy as np
import pytest

from common.evaluation.certificates import longest_certified, p_value, samples_needed, upper_drop


def test_no_discordant_pair_worked_by_hand() -> None:
    """With none lost nor won among n, the chance under the null is at most (1 - target)^n, plus the share of error."""
    assert p_value(0, 0, 1000, 0.01) == pytest.approx(0.002 + 0.99**1000, abs=1e-4)
    assert p_value(0, 0, 100, 0.01) > 0.1  # 0.99^100 = 0.37
    assert p_value(5, 0, 0, 0.01) == 1.0


def test_certificate_grows_with_losses_and_shrinks_with_samples() -> None:
    losses = [p_value(lost, 10, 2000, 0.01) for lost in (5, 10, 20, 30, 40)]

    assert losses == sorted(losses)
    assert p_value(5, 5, 4000, 0.005) < p_value(5, 5, 1000, 0.005)
    assert upper_drop(10, 10, 2000) > upper_drop(20, 20, 8000)


@pytest.mark.parametrize(("samples", "share", "target"), [(500, 0.1, 0.02), (2000, 0.02, 0.003), (1000, 0.05, 0.01)])
def test_broken_promises_stay_within_the_error(samples: int, share: float, target: float) -> None:
    """At the very edge of the null, at most a tenth of 400 draws pass (three standard errors allowed)."""
    random = np.random.default_rng(7)
    chances = [(share + target) / 2, (share - target) / 2, 1 - share]
    draws = random.multinomial(samples, chances, size=400)

    passed = np.mean([p_value(int(lost), int(won), samples, target) <= 0.1 for lost, won, _ in draws])

    assert passed <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 400)


def test_promise_over_further_answers_is_kept_over_those_answers() -> None:
    random = np.random.default_rng(8)
    share, further, samples, target = 0.03, 800, 2000, 0.01
    for drop in (0.002, 0.006, 0.01, 0.014):
        chances = [(share + drop) / 2, (share - drop) / 2, 1 - share]
        here, there = (random.multinomial(count, chances, size=150) for count in (samples, further))
        promised = [p_value(int(b), int(c), samples, target, over=further) <= 0.1 for b, c, _ in here]
        broken = (there[:, 0] - there[:, 1]) / further > target

        assert np.mean(np.array(promised) & broken) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 150)


def test_exact_bound_is_nearly_as_sharp_as_the_normal_approximation() -> None:
    normal = 1.2816 * np.sqrt(0.02 / 2000)  # no net loss, 2 % discordant

    assert normal < upper_drop(20, 20, 2000) < 1.1 * normal


def test_samples_needed_agrees_with_the_test() -> None:
    needed = samples_needed(0.0, 0.02, 0.003)
    assert needed is not None

    lost = round(0.01 * needed)
    assert p_value(lost, lost, int(1.1 * needed), 0.003) <= 0.1
    assert p_value(lost, lost, int(0.8 * needed), 0.003) > 0.1
    assert samples_needed(0.004, 0.02, 0.003) is None


def test_fixed_sequence_stops_at_the_first_failure() -> None:
    safe, bad = np.zeros(2000), np.r_[np.ones(60), np.zeros(1940)]

    assert longest_certified([safe, safe, bad, safe], 0.005) == 2
