"""The agent: accepts texts, answers near where it can, and hands the rest to the settler."""

import logging
import secrets
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from common.transport.contract import Transport

from common.config.settings import DeviceLimits
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation
from common.engine.pipeline import Exited, Pipeline, State, Unsure, Verdict
from common.errors import OverloadedError
from common.types import Answer, Hop, Tier
from common.wire.topics import Topics
from device_agent.pending import Pending
from device_agent.settler import Settler

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceModel:
    """What a device computes with."""

    entrance: Entrance
    pipeline: Pipeline
    escalation: Escalation


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
        limits: DeviceLimits,
        resources: ExitStack,
    ) -> None:
        self.device_id = device_id
        self.topics = topics
        self.transport = transport
        self._model = model
        self._settler = settler
        self._limits = limits
        self._resources = resources  # closed last in, first out: the settler, then the transport
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
        return {**self._settler.counters, **self.transport.counters()}

    def classify(self, text: str, pair: str | None = None) -> Answer:
        """Answer one text; takes at most the budget, or the device's own time if that is longer.

        Raises:
            InputError: The text cannot be classified.
            OverloadedError: A bound is reached; nothing was accepted.
        """
        return self.submit(text, pair).result()

    def submit(self, text: str, pair: str | None = None, *, true_label: str | None = None) -> Future[Answer]:
        """Accept one text; runs the device's layers now and waits for nothing but a free place in flight.

        Raises:
            InputError: The text cannot be classified; nothing was accepted.
            OverloadedError: Too many records wait for the recorder; nothing was accepted.
        """
        accepted_at, created_at = time.monotonic(), time.time()
        if self._settler.is_full:
            raise OverloadedError(
                f"{self._limits.max_unrecorded} finished requests wait for the recorder (device.max_unrecorded); "
                "start the edge, or raise the limit"
            )
        entered = self._model.entrance.enter(text, pair)
        pending = Pending(
            request_id=_request_id(created_at),
            entered=entered,
            accepted_at=accepted_at,
            created_at=created_at,
            deadline=accepted_at + self._limits.budget_ms / 1000,
            text=text if pair is None else f"{text}\t{pair}",
            true_label=true_label,
        )
        if entered.tier is Tier.DEVICE:
            self._run_here(pending)
        else:
            self._hand_over(pending, pending.entered.state, entered.tier)
        return pending.future

    def _run_here(self, pending: Pending) -> None:
        verdict = run_device_layers(self._model.pipeline, self.device_id, pending)
        match verdict:
            case Exited():
                self._settler.settle(pending, self._settler.answers.from_exit(pending, verdict, verdict.reason))
            case Unsure():
                pending.local = verdict.best
                self._hand_over(pending, verdict.state, Tier.EDGE)

    def _hand_over(self, pending: Pending, state: State, tier: Tier) -> None:
        pending.topic = self.topics.request(tier)
        pending.message = self._model.escalation.pack(
            pending.request_id,
            self.device_id,
            state,
            budget_ms=self._limits.budget_ms,
            hops=pending.hops,
        )
        self._slots.acquire()
        pending.future.add_done_callback(lambda _: self._slots.release())
        self._settler.dispatch(pending)


def _request_id(created_at: float) -> str:
    """Give a random id that sorts by time, so that a large log is written at its end."""
    return f"{int(created_at * 1000):012x}{secrets.token_hex(6)}"


def run_device_layers(pipeline: Pipeline, device_id: str, pending: Pending) -> Verdict:
    """Run [0, m) over a request's embedding, and note the device's hop."""
    started = time.perf_counter()
    (verdict,) = pipeline.advance([pending.entered.state])
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
    )
    pending.hops = (*pending.hops, hop)
    return verdict
