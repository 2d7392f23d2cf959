"""Routers at equal coverage, and promises held against fresh samples."""

import numpy as np
from synthetic import make_trace

from common.evaluation.coverage import ASKED, compare_at_coverage
from common.evaluation.resplits import try_promise
from common.evaluation.scoring import Setting
from common.types import Depths

DEPTHS = Depths(device=2, edge=4, cloud=6)
SETTING = Setting(depths=DEPTHS)


def test_coverage_on_unseen_folds_is_within_two_points_of_the_asked_one() -> None:
    scores = compare_at_coverage(make_trace(3000), DEPTHS)

    assert [(score.exit_layer, score.asked) for score in scores] == [
        (layer, asked) for layer in (2, 4) for asked in ASKED
    ]
    assert max(abs(score.achieved - score.asked) for score in scores) < 0.02


def test_a_router_that_sees_who_errs_beats_entropy() -> None:
    trace = make_trace(3000)
    is_wrong = (trace.predictions()[1] != trace.labels) & (trace.predictions()[-1] == trace.labels)
    trace.pooled[1, :, 0] = 20.0 * is_wrong  # a state that tells what the logits hide

    score = compare_at_coverage(trace, DEPTHS, (0.9,))[0]

    assert score.gain_points > 1
    assert score.interval.low > 0


def test_a_promise_is_kept_on_samples_that_it_was_not_made_on() -> None:
    kept = try_promise(make_trace(2400), SETTING, max_drop=0.03, calibration=1600, times=10)

    assert kept.test == 800
    assert kept.kept >= 9  # promised at 90 %
    assert kept.refused < 10
    assert kept.mean_reduction is not None
    assert kept.mean_reduction > 0


def test_what_cannot_be_promised_is_refused_and_counted() -> None:
    kept = try_promise(make_trace(120), SETTING, max_drop=0.001, calibration=80, times=3)

    assert (kept.refused, kept.kept, kept.mean_drop_points) == (3, 3, None)


def test_joined_traces_keep_every_sample() -> None:
    first, second = make_trace(30), make_trace(20, seed=1)

    joined = first.followed_by(second)

    assert len(joined) == 50
    np.testing.assert_array_equal(joined.logits[:, 30:], second.logits)
    assert joined.probabilities_by_epoch is None
