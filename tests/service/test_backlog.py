"""Devices are served in turn, and the least valuable goes first when too much waits."""

import time

import pytest

from common.service.backlog import FairByDevice
from common.transport.contract import Delivery
from common.wire import codec
from common.wire.codec import peek
from common.wire.messages import HiddenStates, Receipt, Tensor


def request(
    device: str, number: int = 0, *, budget_ms: float = 1e6, attempt: int = 1, waited_s: float = 0.0
) -> Delivery:
    message = HiddenStates(
        request_id=f"{device}-{number}",
        device_id=device,
        model_revision="m",
        split_point=0,
        budget_ms=budget_ms,
        codec="int8",
        tensors=(Tensor("|i1", (1,), b"0"),),
        attempt=attempt,
    )
    return Delivery("edge/request", codec.encode(message), time.monotonic() - waited_s)


def names(deliveries: list[Delivery]) -> list[str]:
    return [message.request_id for d in deliveries if isinstance(message := codec.decode(d.payload), HiddenStates)]


def filled(max_waiting: int, *deliveries: Delivery) -> FairByDevice:
    backlog = FairByDevice(max_waiting)
    backlog.add(deliveries)
    return backlog


def test_a_flooding_device_waits_behind_itself_alone() -> None:
    backlog = filled(100, *(request("flood", number) for number in range(50)), request("quiet"))

    assert names(backlog.take(4)) == ["flood-0", "quiet-0", "flood-1", "flood-2"]


def test_a_full_backlog_sheds_from_the_longest_lane_and_never_the_quiet_one() -> None:
    backlog = filled(10, request("quiet"), *(request("flood", number) for number in range(100)))

    assert len(backlog) == 10
    assert backlog.counters["shed_excess"] == 91
    assert names(backlog.take(100)) == ["quiet-0", *(f"flood-{number}" for number in range(9))]


def test_what_is_late_is_shed_first_and_then_retries() -> None:
    late = request("a", 1, budget_ms=100.0, waited_s=1.0)
    backlog = filled(3, request("a", 0), late, request("a", 2, attempt=2), request("a", 3), request("a", 4))

    assert (backlog.counters["shed_late"], backlog.counters["shed_retry"]) == (1, 1)
    assert names(backlog.take(10)) == ["a-0", "a-3", "a-4"]


def test_what_became_late_in_the_backlog_is_not_given_out() -> None:
    backlog = filled(10, request("a", 0, budget_ms=50.0, waited_s=1.0), request("a", 1))

    assert names(backlog.take(1)) == ["a-1"]
    assert backlog.counters["shed_late"] == 1


def test_saturation_is_told_when_it_begins_and_when_it_has_been_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    backlog = FairByDevice(8)
    backlog.on_saturation = lambda: told.append(backlog.is_saturated)
    backlog.add([request("a", number) for number in range(6)])

    backlog.take(5)
    assert told == [True]
    monkeypatch.setattr("common.service.backlog._CALM_S", 0.0)
    backlog.take(1)
    assert told == [True, False]


def test_newest_first_once_the_oldest_has_waited_for_half_of_its_budget() -> None:
    old, older = request("a", 1, waited_s=600), request("a", 0, waited_s=2000)  # of a budget of 1000 seconds
    backlog = filled(10, older, old, request("a", 2), request("a", 3))

    assert names(backlog.take(2)) == ["a-3", "a-2"]
    assert backlog.counters["shed_late"] == 1
    assert backlog.is_saturated


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x9a\xa1H", codec.encode(Receipt(request_ids=("a",))), b"\xdd" * 9]
)
def test_bytes_that_are_no_request_are_handed_on_to_be_refused(payload: bytes) -> None:
    backlog = filled(10, Delivery("edge/request", payload, time.monotonic()))

    assert peek(payload).device_id == ""
    assert len(backlog.take(10)) == 1


def test_only_what_is_shed_for_want_of_room_is_told_to_its_device() -> None:
    told: list[tuple[str, str]] = []
    backlog = FairByDevice(2)
    backlog.on_excess = lambda shed: told.append((shed.device_id, shed.request_id))
    late = request("a", 1, budget_ms=100.0, waited_s=1.0)
    backlog.add([request("a", 0), late, request("a", 2, attempt=2), request("a", 3), request("a", 4)])

    assert (backlog.counters["shed_late"], backlog.counters["shed_retry"]) == (1, 1)
    assert told == [("a", "a-4")]
