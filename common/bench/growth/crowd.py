"""Many light devices in one process: ids and outcome topics of their own, on a few connections."""

import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from common.bench.growth.recording import Recordings, Request
from common.bench.growth.tally import Tally
from common.bench.measure import quantile
from common.bench.parts import Crowd, CrowdOrder, Flow, Flowed, Gather
from common.config.settings import DeviceLimits, Mqtt
from common.errors import TransportError
from common.model.bundle import open_bundle
from common.transport.contract import Inbox
from common.transport.mqtt import MqttTransport
from common.wire import codec
from common.wire.topics import Topics

_CONNECTIONS = 4
_CONNECT_LIMIT_S = 10.0
_MAX_INBOX = 65_536


def attend(part: Crowd) -> None:
    """Be a crowd until stdin ends: gather as many devices as told, let requests flow as told."""
    recordings = Recordings(open_bundle(part.bundle), part.policy, part.texts)
    with ExitStack() as stack:
        gathering = Gathering(part, recordings, 1, stack)
        for line in sys.stdin.buffer:
            match msgspec.json.decode(line, type=CrowdOrder):
                case Gather(devices=devices):
                    stack.close()
                    gathering = Gathering(part, recordings, devices, stack)
                    _say(Gather(devices=devices))
                case Flow() as flow:
                    _say(gathering.flow(flow))


class Gathering:
    """Light devices that are connected."""

    def __init__(self, part: Crowd, recordings: Recordings, devices: int, stack: ExitStack) -> None:
        """Connect until the stack is closed; device ``n`` shares connection ``n`` modulo their number.

        Raises:
            TransportError: The broker is out of reach.
        """
        self._topics = Topics(part.site)
        self._recordings = recordings
        self._inbox = Inbox(_MAX_INBOX)
        self._devices = [f"light-{number}" for number in range(devices)]
        settings = Mqtt(host=part.host, port=part.port, site=part.site)
        transports = [MqttTransport(settings, client_id=f"crowd-{place}") for place in range(_CONNECTIONS)]
        for device, transport in zip(self._devices, itertools.cycle(transports), strict=False):
            transport.subscribe(self._topics.outcome(device), self._inbox)
        self._transports = [stack.enter_context(transport) for transport in transports]
        for transport in self._transports:
            if not transport.wait_connected(_CONNECT_LIMIT_S):
                raise TransportError(f"no connection to {part.host}:{part.port}")

    def flow(self, flow: Flow) -> Flowed:
        """Send what a step asks for, and tell what became of it once its last budget has run out."""
        requests = self._recordings.requests(flow.tokens)
        slots = threading.Semaphore(flow.in_flight)
        budget_s = DeviceLimits().budget_ms / 1000
        sent = unsent = 0
        started = time.monotonic()
        with Tally(self._inbox, slots) as tally:
            for number, arrival in enumerate(itertools.islice(_arrivals(flow, started, slots), flow.most)):
                is_sent = self._send(f"{flow.seed}-{number}", number, requests[number % len(requests)], tally, arrival)
                sent, unsent = sent + is_sent, unsent + (not is_sent)
            sending_s = time.monotonic() - started
            unanswered = tally.wait_settled(budget_s)
        ordered = sorted(tally.latencies_ms)
        return Flowed(
            sent=sent,
            answered=len(ordered),
            refused=dict(tally.refused),
            unanswered=unanswered,
            unsent=unsent,
            elapsed_s=max(sending_s, tally.last_at - started),
            p50_ms=quantile(ordered, 0.5),
            p95_ms=quantile(ordered, 0.95),
            p99_ms=quantile(ordered, 0.99),
        )

    def _send(self, request_id: str, number: int, request: Request, tally: Tally, arrival: float) -> bool:
        place = number % len(self._devices)
        message = msgspec.structs.replace(request.message, request_id=request_id, device_id=self._devices[place])
        tally.expect(request_id, arrival)
        expiry_s = max(1.0, message.budget_ms / 1000)
        transport = self._transports[place % len(self._transports)]
        try:
            transport.publish(self._topics.request(request.tier), codec.encode(message), qos=0, expiry_s=expiry_s)
        except TransportError:  # the network takes no more
            tally.forget(request_id)
            return False
        return True


def _arrivals(flow: Flow, started: float, slots: threading.Semaphore) -> Iterator[float]:
    """Give the moments (monotonic seconds) at which requests come, when they have come."""
    ends = started + flow.seconds
    if flow.rate_hz is None:
        while slots.acquire(timeout=max(0.0, ends - time.monotonic())) and (now := time.monotonic()) < ends:
            yield now
        return
    gaps = random.Random(flow.seed)  # noqa: S311 - arrivals, no secret
    arrival = started
    while (arrival := arrival + gaps.expovariate(flow.rate_hz)) < ends:
        time.sleep(max(0.0, arrival - time.monotonic()))
        yield arrival


def _say(message: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()
