"""Requests on their way out of the device: packed, promised, and sent as places in flight are free."""

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from common.config.settings import DeviceLimits
from common.engine.pipeline import State
from common.errors import OverloadedError
from common.types import Tier
from common.wire.topics import Topics
from device_agent.layers import compute_here
from device_agent.outbox import Outbox
from device_agent.pending import Pending
from device_agent.settler import Settler


class Leaving(NamedTuple):
    """A request for another tier, and what is to be sent of it."""

    pending: Pending
    state: State
    tier: Tier


class Departures:
    """Hands requests to the settler; any thread may call, and waits for nothing but a free place in flight."""

    def __init__(self, device_id: str, topics: Topics, settler: Settler, outbox: Outbox, limits: DeviceLimits) -> None:
        self._device_id = device_id
        self._topics = topics
        self._settler = settler
        self._outbox = outbox
        self._limits = limits
        self._places = threading.BoundedSemaphore(limits.max_in_flight)

    def send(self, leaving: Sequence[Leaving]) -> dict[str, OverloadedError]:
        """Send requests, as many at once as there are places; give those that cannot be kept, by request."""
        refused: dict[str, OverloadedError] = {}
        ready: list[Pending] = []
        for one in leaving:
            try:
                self._prepare(one)
            except OverloadedError as exc:
                refused[one.pending.request_id] = exc
                continue
            if not self._places.acquire(blocking=False):
                self._settler.dispatch(ready)  # or the places that they take would never be free
                ready = []
                if not self._wait_for_place(one.pending):
                    continue
            one.pending.future.add_done_callback(lambda _: self._places.release())
            ready.append(one.pending)
        self._settler.dispatch(ready)
        return refused

    def _prepare(self, leaving: Leaving) -> None:
        """Pack a request and promise it.

        Raises:
            OverloadedError: It cannot be kept.
        """
        pending, state, tier = leaving
        pending.topic = self._topics.request(tier)
        pending.message = pending.model.escalation.pack(
            pending.request_id,
            self._device_id,
            state,
            budget_ms=max(0.0, (pending.deadline - time.monotonic()) * 1000),
            hops=pending.hops,
            needs_signature=self._limits.needs_signatures,
            traceparent=pending.place.traceparent,
        )
        self._outbox.accept(pending.promised)

    def _wait_for_place(self, pending: Pending) -> bool:
        """Wait while another tier could still answer in time; without a place the device's own exit answers."""
        if self._places.acquire(timeout=self._settler.time_for_tiers_s(pending)):
            return True
        if pending.local is None and not pending.failure:
            compute_here(self._device_id, pending)
        self._settler.settle_here(pending, f"no place in flight (device.max_in_flight {self._limits.max_in_flight})")
        return False
