"""What every transport promises, over loopback, the embedded broker and Mosquitto."""

import queue
from typing import Any

import pytest

from common.errors import TransportError
from common.transport.contract import Inbox, Presence, Publication

LIMIT_S = 60.0


class Announcer:
    """A presence whose every 'online' can be waited for."""

    def __init__(self, topic: str) -> None:
        self.came_online: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.presence = Presence(topic=topic, online=self._online, stopped=lambda: b"stopped", gone=b"offline")

    def _online(self) -> bytes:
        self.came_online.put(None)
        return b"online"


def payload_of(inbox: Inbox) -> bytes:
    delivery = inbox.get(LIMIT_S)
    assert delivery is not None, "nothing came"
    return delivery.payload


def test_a_message_comes_back_as_it_was_sent(medium: Any) -> None:
    inbox = Inbox(8)
    receiver, sender = medium.transport("receiver"), medium.transport("sender")
    receiver.subscribe("site/request", inbox)

    with receiver, sender:
        assert receiver.wait_connected(LIMIT_S)
        sender.publish("site/request", bytes(range(256)) * 400, expiry_s=30)
        delivery = inbox.get(LIMIT_S)

    assert delivery is not None
    assert delivery.topic == "site/request"
    assert delivery.payload == bytes(range(256)) * 400
    assert sender.counters()["sent"] >= 1
    assert receiver.counters()["received"] == 1


@pytest.mark.parametrize("qos", [0, 1])
def test_messages_of_one_sender_keep_their_order(medium: Any, qos: int) -> None:
    inbox = Inbox(1000)
    receiver, sender = medium.transport("receiver"), medium.transport("sender")
    receiver.subscribe("site/+/request", inbox)

    with receiver, sender:
        assert receiver.wait_connected(LIMIT_S)
        for number in range(300):
            sender.publish("site/edge/request", str(number).encode(), qos=qos)
        received = [int(payload_of(inbox)) for _ in range(300)]

    assert received == list(range(300))


@pytest.mark.parametrize("qos", [0, 1])
def test_messages_that_leave_together_keep_their_order_and_one_that_is_refused_stops_no_other(
    medium: Any, qos: int
) -> None:
    inbox = Inbox(1000)
    receiver, sender = medium.transport("receiver"), medium.transport("sender", max_packet_bytes=20_000)
    receiver.subscribe("site/+/request", inbox)
    payloads = [str(number).encode() for number in range(150)]  # more than may be in flight
    payloads[70] = bytes(30_000)

    with receiver, sender:
        assert receiver.wait_connected(LIMIT_S)
        assert sender.wait_connected(LIMIT_S)
        refusals = sender.publish_all([Publication("site/edge/request", each, qos, 30.0) for each in payloads])
        received = [payload_of(inbox) for _ in range(149)]

    assert [place for place, refusal in enumerate(refusals) if refusal is not None] == [70]
    assert "exceeds the packet limit" in str(refusals[70])
    assert received == payloads[:70] + payloads[71:]
    (refusal,) = sender.publish_all([Publication("site/edge/request", b"")])
    assert "closed" in str(refusal)


def test_a_wildcard_among_messages_that_leave_together_is_a_mistake(medium: Any) -> None:
    with medium.transport("sender") as sender, pytest.raises(ValueError, match="cannot be published to"):
        sender.publish_all([Publication("site/+", b"")])


def test_large_and_small_messages_in_one_stream_arrive_whole(medium: Any) -> None:
    payloads = [bytes([place]) * size for place, size in enumerate([1, 70_000, 0, 127, 128, 65_536, 3] * 4)]
    inbox = Inbox(64)

    with medium.transport("sender") as sender, medium.transport("receiver") as receiver:
        receiver.subscribe("a/b", inbox)
        assert sender.wait_connected(LIMIT_S)
        assert receiver.wait_connected(LIMIT_S)
        for payload in payloads:
            sender.publish("a/b", payload)

        assert [payload_of(inbox) for _ in payloads] == payloads


def test_a_subscription_ends_and_brings_what_is_retained_when_it_begins_again(medium: Any) -> None:
    inbox, others = Inbox(8), Inbox(8)
    receiver, sender = medium.transport("receiver"), medium.transport("sender")
    receiver.subscribe("site/part/1", inbox)
    receiver.subscribe("site/end", others)

    with receiver, sender:
        assert receiver.wait_connected(LIMIT_S)
        sender.publish("site/part/1", b"first", is_retained=True)
        heard = [payload_of(inbox)]
        receiver.unsubscribe("site/part/1")
        sender.publish("site/part/1", b"second", is_retained=True)
        sender.publish("site/end", b"end")
        assert payload_of(others) == b"end"
        unheard = len(inbox)
        receiver.subscribe("site/part/1", inbox)
        heard.append(payload_of(inbox))

    assert heard == [b"first", b"second"]
    assert unheard == 0


def test_a_later_subscriber_sees_who_is_online_and_who_left(medium: Any) -> None:
    inbox = Inbox(8)
    announcer = Announcer("site/status/edge/a")
    watcher, node = medium.transport("watcher"), medium.transport("node", presence=announcer.presence)

    with watcher:
        with node:
            announcer.came_online.get(timeout=LIMIT_S)
            assert watcher.wait_connected(LIMIT_S)
            watcher.subscribe("site/status/+/a", inbox)
            assert payload_of(inbox) == b"online"
        last = payload_of(inbox)
        while last == b"online":  # it may come twice: as published, and as retained
            last = payload_of(inbox)
        assert last == b"stopped"


def test_the_last_will_speaks_for_a_node_that_vanished(medium: Any) -> None:
    inbox = Inbox(8)
    announcer = Announcer("site/status/edge/a")
    watcher, node = medium.transport("watcher"), medium.transport("node", presence=announcer.presence)
    watcher.subscribe("site/status/+/+", inbox)

    with watcher, node:
        assert watcher.wait_connected(LIMIT_S)
        assert payload_of(inbox) == b"online"
        medium.vanish(node)
        assert payload_of(inbox) == b"offline"


def test_subscriptions_and_presence_return_after_the_broker_did(medium: Any) -> None:
    requests, statuses = Inbox(8), Inbox(8)
    announcers = Announcer("site/status/edge/a"), Announcer("site/status/edge/b")
    node = medium.transport("node", presence=announcers[0].presence)
    other = medium.transport("other", presence=announcers[1].presence)
    node.subscribe("site/request", requests)

    with node, other:
        for announcer in announcers:
            announcer.came_online.get(timeout=LIMIT_S)
        medium.stop()
        medium.start()
        for announcer in announcers:
            announcer.came_online.get(timeout=LIMIT_S)

        other.publish("site/request", b"after")
        assert payload_of(requests) == b"after"
        other.subscribe("site/status/edge/a", statuses)
        assert payload_of(statuses) == b"online"
        assert node.counters()["reconnects"] == 1


def test_what_is_sent_before_the_broker_runs_arrives_once_it_does(medium: Any) -> None:
    medium.stop()
    inbox = Inbox(8)
    receiver, sender = medium.transport("receiver"), medium.transport("sender")
    receiver.subscribe("site/request", inbox)

    with receiver, sender:
        assert not sender.is_connected
        for number in range(3):
            receiver.publish("site/request", str(number).encode())
        receiver.publish("site/request", b"stale", expiry_s=0.0)
        medium.start()

        assert [payload_of(inbox) for _ in range(3)] == [b"0", b"1", b"2"]
        assert receiver.counters()["dropped_expired"] == 1


def test_the_outbox_refuses_more_than_its_bound_while_offline(medium: Any) -> None:
    medium.stop()

    with medium.transport("sender", max_outbox=3) as sender:
        for _ in range(3):
            sender.publish("site/request", b"kept")
        with pytest.raises(TransportError, match="3 unacknowledged"):
            sender.publish("site/request", b"one too many")

        assert sender.counters()["refused_outbox_full"] == 1


def test_a_message_over_the_limit_is_refused_and_the_next_one_flows(medium: Any) -> None:
    inbox = Inbox(8)
    receiver, sender = medium.transport("receiver"), medium.transport("sender", max_packet_bytes=20_000)
    receiver.subscribe("site/request", inbox)

    with receiver, sender:
        assert receiver.wait_connected(LIMIT_S)
        with pytest.raises(TransportError, match="20000 bytes"):
            sender.publish("site/request", bytes(20_000))
        sender.publish("site/request", b"small")

        assert payload_of(inbox) == b"small"
        assert sender.counters()["refused_too_large"] == 1


def test_a_group_shares_the_work_where_the_broker_can_and_else_each_gets_all(medium: Any) -> None:
    inboxes = Inbox(100), Inbox(100)
    workers = medium.transport("worker-0"), medium.transport("worker-1")
    for worker, inbox in zip(workers, inboxes, strict=True):
        worker.subscribe("site/request", inbox, group="workers")

    with workers[0], workers[1], medium.transport("sender") as sender:
        assert all(worker.wait_connected(LIMIT_S) for worker in workers)
        for number in range(40):
            sender.publish("site/request", str(number).encode())
        size = 20 if medium.has_groups else 40
        shares = [[int(payload_of(inbox)) for _ in range(size)] for inbox in inboxes]

    expected = list(range(40)) if medium.has_groups else sorted([*range(40)] * 2)
    assert sorted(shares[0] + shares[1]) == expected


def test_leaving_closes_the_inboxes_after_what_was_accepted(medium: Any) -> None:
    inbox = Inbox(8)
    node = medium.transport("node")
    node.subscribe("site/request", inbox)

    with node:
        assert node.wait_connected(LIMIT_S)
        node.publish("site/request", b"last")
        first = payload_of(inbox)

    assert first == b"last"
    assert inbox.get(LIMIT_S) is None
    assert inbox.is_drained
    with pytest.raises(TransportError, match="closed"):
        node.publish("site/request", b"too late")


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "nul\0"])
def test_a_topic_that_cannot_be_published_to_is_refused(medium: Any, topic: str) -> None:
    with medium.transport("node") as node, pytest.raises(ValueError, match="cannot be published"):
        node.publish(topic, b"")


@pytest.mark.parametrize("topic", ["", "a/#/b", "a+", "a/b#"])
def test_a_wrong_topic_filter_is_refused(medium: Any, topic: str) -> None:
    with pytest.raises(ValueError, match="no topic filter"):
        medium.transport("node").subscribe(topic, Inbox(1))
