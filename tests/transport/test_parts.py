"""The parts that decide: inbox, routes, outbox, versions, waits and tenure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub
from paho.mqtt.enums import MQTTProtocolVersion

from common.errors import TransportError
from common.transport.claim import Claim, Tenure
from common.transport.contract import Delivery, Inbox
from common.transport.negotiation import Backoff, Versions
from common.transport.outbox import Outbox, Outgoing
from common.transport.routes import Routes, Subscription, matches

V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
LEVELS = st.lists(st.sampled_from(["a", "b", "", "$SYS"]), min_size=1, max_size=4)
PATTERNS = st.tuples(st.lists(st.sampled_from(["a", "b", "", "+"]), min_size=1, max_size=4), st.booleans())


def test_a_full_inbox_drops_and_counts_and_keeps_what_it_has() -> None:
    inbox = Inbox(2)

    taken = [inbox.put(Delivery("a", bytes([number]), 0.0)) for number in range(4)]

    assert taken == [True, True, False, False]
    assert inbox.dropped == {"inbox_full": 2}
    assert [inbox.get(0), inbox.get(0), inbox.get(0)] == [Delivery("a", b"\0", 0.0), Delivery("a", b"\1", 0.0), None]


def test_a_closed_inbox_gives_what_it_accepted_to_all_its_consumers() -> None:
    inbox = Inbox(2)
    inbox.put(Delivery("a", b"1", 0.0))
    inbox.close()

    assert not inbox.put(Delivery("a", b"2", 0.0))
    assert not inbox.is_drained
    assert [delivery.payload for delivery in inbox] == [b"1"]
    assert inbox.is_drained
    assert list(inbox) == []
    assert inbox.dropped == {"inbox_closed": 1}


def test_a_consumer_can_be_woken_and_finds_everything_afterwards() -> None:
    inbox = Inbox(2)

    inbox.wake()
    woken = inbox.get_batch(10)  # without a limit: only being woken ends it
    inbox.put(Delivery("a", b"1", 0.0))
    inbox.wake()
    inbox.close()

    assert woken == []
    assert inbox.get_batch(10) == [Delivery("a", b"1", 0.0)]
    assert list(inbox) == []


@given(levels=LEVELS, pattern=PATTERNS)
def test_topics_match_as_paho_says(levels: list[str], pattern: tuple[list[str], bool]) -> None:
    topic, wanted = "/".join(levels), "/".join([*pattern[0], *(["#"] if pattern[1] else [])])

    assert matches(wanted, topic) == topic_matches_sub(wanted, topic)


def test_what_no_subscription_asked_for_is_counted() -> None:
    routes, inbox = Routes(), Inbox(1)
    routes.add(Subscription("a", None), inbox)

    routes.dispatch("b", b"")

    assert routes.counts == {"received": 1, "dropped_unrouted": 1}
    assert len(inbox) == 0


def message(name: str, **fields: object) -> Outgoing:
    return Outgoing(topic=name, payload=b"", **fields)  # type: ignore[arg-type]


def test_what_was_in_flight_goes_first_after_a_loss_in_its_order() -> None:
    outbox = Outbox(10, 1000)
    for name in "abcd":
        outbox.append(message(name))
    for packet_id in (1, 2, 3):
        taken = outbox.take()
        assert taken is not None
        outbox.sent(packet_id, taken)
    outbox.acknowledged(2)

    outbox.recall()

    order = [taken.topic for _ in range(3) if (taken := outbox.take()) is not None]
    assert order == ["a", "c", "d"]


def test_unacknowledged_messages_count_against_the_bound() -> None:
    outbox = Outbox(1, 1000)
    outbox.append(message("a"))
    outbox.sent(1, outbox.take() or message("?"))

    with pytest.raises(TransportError, match="max_outbox"):
        outbox.append(message("b"))
    outbox.acknowledged(1)
    outbox.append(message("b"))

    assert len(outbox) == 1


def test_a_suspect_goes_alone_and_is_dropped_at_last() -> None:
    outbox = Outbox(10, 1000)
    outbox.append(message("poison"))
    outbox.append(message("innocent"))
    rounds: list[list[str]] = []

    while len(outbox) and len(rounds) < 10:
        sent: list[str] = []
        while outbox.may_send(20) and (taken := outbox.take()) is not None:
            outbox.sent(len(sent), taken)
            sent.append(taken.topic)
        rounds.append(sent)
        if sent[0] == "innocent":
            outbox.acknowledged(0)
        else:
            outbox.recall()

    assert rounds == [["poison", "innocent"]] * 2 + [["poison"]] * 3 + [["innocent"]]
    assert outbox.counts["dropped_suspect"] == 1


def test_a_stale_status_is_never_sent_again() -> None:
    outbox = Outbox(10, 1000)
    outbox.put_first(message("status", is_resent=False))
    outbox.sent(1, outbox.take() or message("?"))

    outbox.recall()

    assert len(outbox) == 0


def test_version_3_is_tried_when_5_is_refused_and_5_again_at_the_next_connection() -> None:
    versions = Versions("auto")

    assert versions.current == V5
    assert versions.refused()
    assert versions.current == V311
    versions.accepted()
    assert versions.current == V5


def test_an_early_close_counts_against_version_5_only_until_it_was_spoken() -> None:
    versions = Versions("auto")
    assert versions.closed_early()
    assert versions.current == V311
    assert not versions.closed_early()
    assert versions.current == V5
    versions.accepted()

    assert not versions.closed_early()
    assert versions.current == V5


@pytest.mark.parametrize(("wanted", "version"), [("5", V5), ("3.1.1", V311)])
def test_a_wanted_version_is_the_only_one(wanted: str, version: MQTTProtocolVersion) -> None:
    versions = Versions(wanted)  # type: ignore[arg-type]

    assert not versions.refused()
    assert not versions.closed_early()
    assert versions.current == version


def test_waits_grow_with_jitter_up_to_a_limit_and_start_over() -> None:
    backoff = Backoff()

    waits = [backoff.next_s() for _ in range(40)]
    backoff.reset()

    assert 0.05 <= waits[0] <= 0.1
    assert all(1.5 <= wait <= 3.0 for wait in waits[10:])
    assert len(set(waits)) == len(waits)
    assert backoff.next_s() <= 0.1


def test_a_settled_process_comes_back_and_a_newcomer_yields_when_the_broker_says_taken_over() -> None:
    tenure = Tenure()
    tenure.came_online(0.0)

    assert tenure.was_thrown_out(1.0)
    assert not tenure.was_thrown_out(11.0)


def test_a_newcomer_yields_at_the_second_sight_of_a_rival() -> None:
    tenure = Tenure()
    tenure.came_online(0.0)

    assert [tenure.saw_rival(now) for now in (9.0, 15.0)] == [False, True]


def test_a_settled_process_never_yields() -> None:
    tenure = Tenure()
    tenure.came_online(0.0)

    assert [tenure.saw_rival(now) for now in (11.0, 12.0, 13.0)] == [False] * 3


def test_an_old_sighting_is_no_reason_to_yield() -> None:
    tenure = Tenure()
    tenure.came_online(0.0)

    assert [tenure.saw_rival(now) for now in (1.0, 100.0, 101.0)] == [False] * 3


def test_only_a_token_that_replaced_ours_is_a_rivals() -> None:
    claim = Claim("status/a")
    sightings = []

    for payload in (b"of an earlier life", claim.token, claim.token, b"", b"rival", b"rival", claim.token, b"rival"):
        claim.put(Delivery(claim.topic, payload, 0.0))
        sightings.append(claim.sightings)

    assert sightings == [0, 0, 0, 0, 1, 1, 1, 2]
    assert len(claim) == 0
