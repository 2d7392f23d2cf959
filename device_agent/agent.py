"""The agent: accepts texts, answers near where it can, and hands the rest to the settler."""

import logging
import os
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from common.config.settings import DeviceLimits
from common.engine.pipeline import Exited, State, Unsure, Verdict
from common.errors import OverloadedError
from common.service.telemetry.tracing import NOWHERE, Place, Tracer
from common.store.promises import Promised
from common.transport.contract import Transport
from common.types import Answer, Hop, Tier
from common.wire.topics import Topics
from device_agent.model import DeviceModel
from device_agent.outbox import Outbox
from device_agent.pending import Pending
from device_agent.recovery import Recovered
from device_agent.settler import Settler
from device_agent.surroundings import Surroundings
from device_agent.traces import trace

_LOGGER = logging.getLogger(__name__)


class Agent:
    """Classifies texts; safe to use from many threads. Computing happens in the caller's thread."""

    def __init__(
        self,
        device_id: str,
        topics: Topics,
        model: DeviceModel,
        settler: Settler,
        transport: Transport,
        *,
        outbox: Outbox,
        limits: DeviceLimits,
        tracer: Tracer,
        resources: ExitStack,
    ) -> None:
        self.device_id = device_id
        self.topics = topics
        self.transport = transport
        self._model = model
        self._link_cap = 0  # dimensions per token; 0 is no cap
        self._settler = settler
        self._outbox = outbox
        self._limits = limits
        self._tracer = tracer
        self._resources = resources  # closed last in, first out: the settler, then the transport
        self.surroundings = Surroundings()
        self.recovered: tuple[Recovered, ...] = ()  # of a former process, for those who asked it
        self._slots = threading.BoundedSemaphore(limits.max_in_flight)

    @classmethod
    def open(cls, config: str | Path) -> "Agent":
        """Start an agent from its configuration file; use it in a ``with`` statement.

        Raises:
            ConfigError: The file is wrong.
            ArtifactError: The bundle is not intact.
        """
        from device_agent.build import open_agent  # noqa: PLC0415 - the builder imports this module

        return open_agent(Path(config))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    @property
    def counters(self) -> dict[str, int]:
        """What happened so far: answers by reason, retries, refusals, duplicates, and what the transport counts."""
        return {**self._settler.counters, **self._outbox.counters, **self.transport.counters()}

    def classify(self, text: str, pair: str | None = None, *, traceparent: str | None = None) -> Answer:
        """Answer one text; takes at most the budget, or the device's own time if that is longer.

        ``traceparent`` is the caller's span by W3C Trace Context.

        Raises:
            InputError: The text cannot be classified.
            OverloadedError: A bound is reached; nothing was accepted.
        """
        return self.submit(text, pair, traceparent=traceparent).result()

    def submit(
        self,
        text: str,
        pair: str | None = None,
        *,
        true_label: str | None = None,
        input_id: str | None = None,
        traceparent: str | None = None,
    ) -> Future[Answer]:
        """Accept one text; runs the device's layers now and waits for nothing but a free place in flight.

        Raises:
            InputError: The text cannot be classified; nothing was accepted.
            OverloadedError: A bound is reached, or the outbox cannot be written; nothing was accepted.
        """
        created_at = time.time()
        if self._settler.is_full:
            raise OverloadedError(
                f"{self._limits.max_unrecorded} finished requests wait for the recorder (device.max_unrecorded); "
                "start the edge, or raise the limit"
            )
        self._outbox.check()
        accepted_at = time.monotonic()
        promised = Promised(
            request_id=_request_id(created_at),
            input_id=input_id,
            created_at=created_at,
            deadline=created_at + self._limits.budget_ms / 1000,
            text=text,
            pair=pair,
            true_label=true_label,
        )
        place = self._tracer.join(traceparent or "")
        pending = self._pending(promised, accepted_at, self._limits.budget_ms / 1000, place)
        trace(self._tracer, pending)
        self._begin(pending)
        return pending.future

    def cap_link(self, budget: int) -> None:
        """Send no more dimensions per token than this from now on, where the device adapts; 0 lifts the cap."""
        self._link_cap = budget
        if self._model.adaptive is not None:
            self._model.adaptive.cap(budget)

    def switch(self, model: DeviceModel) -> None:
        """Begin requests with another model from now on; those that are open end with theirs."""
        self._model = model
        self.cap_link(self._link_cap)

    def wait_recorded(self, limit_s: float) -> int:
        """Wait for the recorder's receipts; tell how many records have none."""
        return self._settler.wait_recorded(limit_s)

    def resume(self, promised: Promised, future: Future[Answer]) -> None:
        """Take up a request that a former process accepted: send it while it is worth it, else answer it here."""
        age_s = time.time() - promised.created_at
        budget_s = self._limits.budget_ms / 1000
        left_s = budget_s - age_s if 0 <= age_s < budget_s else 0.0  # a clock that went back tells no age
        pending = self._pending(promised, time.monotonic() - max(0.0, age_s), left_s)
        pending.future = future
        if left_s > 0:
            self._begin(pending)
        else:
            _compute_here(self.device_id, pending)
            self._settler.settle_here(pending, "its budget ran out while the device was down")

    def _pending(self, promised: Promised, accepted_at: float, left_s: float, place: Place = NOWHERE) -> Pending:
        model = self._model
        return Pending(
            promised=promised,
            entered=model.entrance.enter(promised.text, promised.pair),
            model=model,
            accepted_at=accepted_at,
            deadline=time.monotonic() + left_s if left_s <= 0 else accepted_at + self._limits.budget_ms / 1000,
            place=place,
        )

    def _begin(self, pending: Pending) -> None:
        tier = pending.entered.tier
        if tier is Tier.DEVICE or self.surroundings.is_saturated(tier):  # a tired tier is asked only for the rest
            self._run_here(pending)
        else:
            self._hand_over(pending, pending.entered.state, tier)

    def _run_here(self, pending: Pending) -> None:
        try:
            verdict = run_device_layers(self.device_id, pending)
        except Exception as exc:  # it is accepted, so it must be answered: by the next tier, from its embedding
            _LOGGER.exception("%s: inference failed on the device; the edge is asked", pending.request_id)
            pending.failure = f"inference failed on the device: {exc}"
            self._hand_over(pending, pending.entered.state, Tier.EDGE)
            return
        match verdict:
            case Exited():
                self._settler.settle(pending, self._settler.answers.from_exit(pending, verdict, verdict.reason))
            case Unsure():
                pending.local = verdict.best
                self._hand_over(pending, verdict.state, Tier.EDGE)

    def _hand_over(self, pending: Pending, state: State, tier: Tier) -> None:
        pending.topic = self.topics.request(tier)
        pending.message = pending.model.escalation.pack(
            pending.request_id,
            self.device_id,
            state,
            budget_ms=max(0.0, (pending.deadline - time.monotonic()) * 1000),
            hops=pending.hops,
            needs_signature=self._limits.needs_signatures,
            traceparent=pending.place.traceparent,
        )
        self._outbox.accept(pending.promised)
        if not self._slots.acquire(timeout=self._settler.time_for_tiers_s(pending)):
            if pending.local is None and not pending.failure:
                _compute_here(self.device_id, pending)
            self._settler.settle_here(
                pending, f"no place in flight (device.max_in_flight {self._limits.max_in_flight})"
            )
            return
        pending.future.add_done_callback(lambda _: self._slots.release())
        self._settler.dispatch(pending)


def _request_id(created_at: float) -> str:
    """Give a random id that sorts by time, so that a large log is written at its end."""
    return f"{int(created_at * 1000):012x}{os.urandom(6).hex()}"


def run_device_layers(device_id: str, pending: Pending) -> Verdict:
    """Run [0, m) over a request's embedding, and note the device's hop."""
    pending.computed_at = time.monotonic()
    started = time.perf_counter()
    (verdict,) = pending.model.pipeline.advance([pending.entered.state])
    best = verdict if isinstance(verdict, Exited) else verdict.best
    hop = Hop(
        tier=Tier.DEVICE,
        node=device_id,
        start=0,
        end=best.layer,
        queue_ms=0.0,
        compute_ms=(time.perf_counter() - started) * 1000,
        confidence=best.confidence,
        predictions=best.predictions,
        confidences=best.confidences,
    )
    pending.hops = (*pending.hops, hop)
    return verdict


def _compute_here(device_id: str, pending: Pending) -> None:
    """Find the device's own exit; a failure is noted, for the request must end all the same."""
    try:
        verdict = run_device_layers(device_id, pending)
    except Exception as exc:
        _LOGGER.exception("%s: inference failed on the device", pending.request_id)
        pending.failure = f"inference failed on the device: {exc}"
    else:
        pending.local = verdict if isinstance(verdict, Exited) else verdict.best
