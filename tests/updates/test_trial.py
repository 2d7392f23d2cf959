"""When a device leaves a bundle by itself: exits away from the record, and too many fallbacks."""

from pathlib import Path

import pytest

from common.config.settings import DeviceUpdates
from common.engine.choice import choose_policy
from common.evaluation.exits import drift, expected_exits
from common.model.bundle import Bundle, open_bundle
from common.types import Answer, Reason, Tier
from device_agent.trial import Trial
from tests.updates.conftest import make_sibling

LIMITS = DeviceUpdates(window=10, max_exit_drift=0.3, max_degraded=0.2)
EXPECTED = {1: 0.6, 2: 0.4}


def watch(exits: str, *, expected: dict[int, float] = EXPECTED, is_connected: bool = True) -> Trial:
    """Show answers to a trial: a digit is the layer of an exit, ``d`` a degraded answer, ``f`` none."""
    trial = Trial("new", expected, LIMITS, on_end=lambda: None)
    reasons = {"d": Reason.DEGRADED, "f": Reason.FAILED}
    for mark in exits:
        answer = Answer(
            request_id="r", device_id="pi-1", model_revision="new", reason=reasons.get(mark, Reason.CONFIDENT),
            label="1", confidence=0.9, exit_layer=int(mark) if mark.isdigit() else 0, exit_tier=Tier.DEVICE,
            entry_tier=Tier.DEVICE, total_ms=1.0,
        )  # fmt: skip
        trial.note(answer, is_connected=is_connected)
    return trial


@pytest.mark.parametrize(
    ("exits", "state"),
    [
        ("1111112222", "proven"),
        ("1112222222", "proven"),  # a drift of 0.3 is within the band
        ("1122222222", "failed"),  # 0.4 is not
        ("3333333333", "failed"),  # an exit that the record does not know
        ("11111122dd", "proven"),
        ("ddd", "failed"),  # before the window is full: nothing can mend it
        ("dff", "failed"),
        ("111111", "watching"),
    ],
)
def test_a_window_of_answers_decides(exits: str, state: str) -> None:
    assert watch(exits).state == state


def test_fallbacks_without_a_broker_say_nothing_about_the_model() -> None:
    assert watch("dddddddddd", is_connected=False).state == "watching"


def test_a_bundle_without_a_record_is_judged_by_its_fallbacks_alone() -> None:
    assert watch("3333333333", expected={}).state == "proven"


def test_answers_of_another_revision_are_not_counted() -> None:
    trial = watch("11")
    other = Trial("old", EXPECTED, LIMITS, on_end=lambda: None)

    assert trial.watched == 2
    assert other.watched == 0
    assert trial.revision != other.revision


def test_the_end_of_a_trial_is_told_once() -> None:
    told: list[int] = []
    trial = Trial("new", EXPECTED, LIMITS, on_end=lambda: told.append(1))
    answer = Answer(
        request_id="r", device_id="pi-1", model_revision="new", reason=Reason.FAILED, label=None, confidence=0.0,
        exit_layer=0, exit_tier=Tier.DEVICE, entry_tier=Tier.DEVICE, total_ms=1.0,
    )  # fmt: skip

    for _ in range(10):
        trial.note(answer, is_connected=True)

    assert told == [1]


def test_drift_is_the_share_that_exits_elsewhere() -> None:
    assert drift({1: 0.5, 2: 0.5}, {1: 5, 2: 5}) == 0.0
    assert drift({1: 1.0}, {2: 7}) == 1.0
    assert drift({1: 0.5, 2: 0.5}, {1: 3, 2: 1}) == pytest.approx(0.25)


def test_expected_exits_are_those_of_the_record_under_the_policy(tiny_bundle: Path, tmp_path: Path) -> None:
    sure = make_sibling(open_bundle(tiny_bundle), tmp_path / "sure", threshold=0.999, record_scale=1000.0)
    never = make_sibling(open_bundle(tiny_bundle), tmp_path / "never", threshold=1.0, record_scale=0.0)

    assert shares(sure)[1] > 0.9
    assert shares(never) == {1: 0.0, 2: 0.0, 3: 1.0}


def shares(bundle: Bundle) -> dict[int, float]:
    found = expected_exits(bundle, choose_policy(bundle))
    assert sum(found.values()) == pytest.approx(1.0)
    return found
