"""MDInference's rule on its published models and networks gives its published curve."""

import math

import numpy as np
import pytest

from common.routing.selection import Choice, Profile, remaining_ms, select

# accuracy %, mean ms, deviation ms: the paper's eleven models
MODELS = {
    "SqueezeNet": (49.0, 4.91, 0.06),
    "MobileNet 0.25": (49.7, 3.21, 0.08),
    "MobileNet 0.5": (63.2, 4.21, 0.06),
    "MobileNet 0.75": (68.3, 4.67, 0.07),
    "MobileNet 1.0": (71.0, 5.43, 0.11),
    "DenseNet": (64.2, 25.49, 0.14),
    "NasNet mobile": (73.9, 21.18, 0.17),
    "Inception v3": (77.9, 31.11, 0.19),
    "Inception-ResNet v2": (77.5, 50.85, 0.33),
    "Inception v4": (80.1, 59.21, 0.22),
    "NasNet large": (82.6, 112.61, 0.34),
}
CHOICES = [
    Choice(name=name, accuracy=accuracy / 100, profile=Profile(mean_ms=mean, variance=deviation**2, measurements=100))
    for name, (accuracy, mean, deviation) in MODELS.items()
]
REQUESTS = 20_000


def replay(sla_ms: float, mean_ms: float, deviation_ms: float) -> tuple[float, float, float]:
    """Give accuracy in %, mean time in ms and late share in %; one draw of the network, above 0, for both ways."""
    draw = np.random.default_rng(7)
    one_way = draw.normal(mean_ms, deviation_ms, 2 * REQUESTS)
    one_way = one_way[one_way > 0][:REQUESTS]
    chosen = [select(CHOICES, remaining_ms(sla_ms, float(up))) for up in one_way]
    compute = np.array([draw.normal(one.profile.mean_ms, one.profile.deviation_ms) for one in chosen])
    times = 2 * one_way + compute
    return (
        100 * float(np.mean([one.accuracy for one in chosen])),
        float(times.mean()),
        100 * float((times > sla_ms).mean()),
    )


@pytest.mark.parametrize(
    ("sla_ms", "accuracy", "time_ms", "late"),
    [(100, 61.5, 117, 54), (150, 72.8, 141, 18), (200, 79.3, 175, 3.4), (250, 81.8, 203, 0.3)],
)
def test_the_published_curve_comes_out_on_the_published_tables(
    sla_ms: float, accuracy: float, time_ms: float, late: float
) -> None:
    got_accuracy, got_time_ms, got_late = replay(sla_ms, 50, 25)

    assert got_accuracy == pytest.approx(accuracy, abs=1.0)
    assert got_time_ms == pytest.approx(time_ms, abs=3.0)
    assert got_late == pytest.approx(late, abs=2.0)


def test_the_most_accurate_that_fits_is_chosen_and_else_the_fastest() -> None:
    assert select(CHOICES, 200.0).name == "NasNet large"
    assert select(CHOICES, 112.7).name == "Inception v4"  # 112.61 + 0.34 does not fit
    assert select(CHOICES, -5.0).name == "MobileNet 0.25"


def test_a_profile_discards_its_first_run_and_follows_the_rest() -> None:
    profile = Profile().updated(900.0).updated(10.0).updated(20.0)

    assert profile.mean_ms == 15.0
    assert profile.variance == 0.5 * 0.5 * 100.0
    assert profile.bound_ms() == 15.0 + math.sqrt(25.0)


def test_the_way_back_is_the_way_there_unless_known() -> None:
    assert remaining_ms(100, 30) == 40
    assert remaining_ms(100, 30, 10) == 60
