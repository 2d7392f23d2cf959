"""The agent: accepts texts, answers near where it can, and hands the rest to the settler."""

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from common.config.settings import DeviceLimits
from common.engine.entrance import Entered
from common.engine.pipeline import Exited, Unsure
from common.errors import DimeeError, InputError, OverloadedError
from common.service.telemetry.tracing import Tracer
from common.store.promises import Promised
from common.transport.contract import Transport
from common.types import Answer, Tier
from common.wire.documents import Input
from common.wire.topics import Topics
from device_agent.departures import Departures, Leaving
from device_agent.layers import compute_here, run_device_layers
from device_agent.model import DeviceModel
from device_agent.outbox import Outbox
from device_agent.pending import Pending
from device_agent.recovery import Recovered
from device_agent.settler import Settler
from device_agent.surroundings import Surroundings
from device_agent.traces import trace

MOST_TOGETHER = 8  # inputs that are accepted in one go: the first of them waits for the last
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
        self._departures = Departures(device_id, topics, settler, outbox, limits)

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
        (accepted,) = self.submit_all([Input(text, pair, id=input_id, label=true_label, traceparent=traceparent)])
        if isinstance(accepted, DimeeError):
            raise accepted
        return accepted

    def submit_all(self, inputs: Sequence[Input]) -> list[Future[Answer] | InputError | OverloadedError]:
        """Accept inputs that wait together, and give for each its future, or why it was refused.

        What is done between two runs of the layers is done for several inputs at once.
        """
        waves = (inputs[begin : begin + MOST_TOGETHER] for begin in range(0, len(inputs), MOST_TOGETHER))
        return [one for wave in waves for one in self._submit_wave(wave)]

    def _submit_wave(self, inputs: Sequence[Input]) -> list[Future[Answer] | InputError | OverloadedError]:
        try:
            self._outbox.check()
        except OverloadedError as exc:
            return [exc] * len(inputs)
        room = self._settler.room
        return [*self._accept(inputs[:room]), *(self._no_room() for _ in inputs[room:])]

    def _no_room(self) -> OverloadedError:
        return OverloadedError(
            f"{self._limits.max_unrecorded} finished requests wait for the recorder (device.max_unrecorded); "
            "start the edge, or raise the limit"
        )

    def _accept(self, inputs: Sequence[Input]) -> list[Future[Answer] | InputError | OverloadedError]:
        accepted_at, model = time.monotonic(), self._model
        entered = model.entrance.enter_all([(one.text, one.pair) for one in inputs])
        pendings = [
            self._pending(input_, one, model, accepted_at)
            for input_, one in zip(inputs, entered, strict=True)
            if isinstance(one, Entered)
        ]
        refused = self._begin(pendings)
        accepted = iter(pendings)
        return [
            one if isinstance(one, InputError) else refused.get((pending := next(accepted)).request_id, pending.future)
            for one in entered
        ]

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
        model = self._model
        pending = Pending(
            promised=promised,
            entered=model.entrance.enter(promised.text, promised.pair),
            model=model,
            accepted_at=time.monotonic() - max(0.0, age_s),
            deadline=time.monotonic() + left_s,
            future=future,
        )
        if left_s > 0:
            for refusal in self._begin([pending]).values():
                raise refusal
        else:
            compute_here(self.device_id, pending)
            self._settler.settle_here(pending, "its budget ran out while the device was down")

    def _pending(self, input_: Input, entered: Entered, model: DeviceModel, accepted_at: float) -> Pending:
        created_at, budget_s = time.time(), self._limits.budget_ms / 1000
        pending = Pending(
            promised=Promised(
                request_id=_request_id(created_at),
                input_id=input_.id,
                created_at=created_at,
                deadline=created_at + budget_s,
                text=input_.text,
                pair=input_.pair,
                true_label=input_.label,
            ),
            entered=entered,
            model=model,
            accepted_at=accepted_at,
            deadline=accepted_at + budget_s,
            place=self._tracer.join(input_.traceparent or ""),
        )
        trace(self._tracer, pending)
        return pending

    def _begin(self, pendings: Sequence[Pending]) -> dict[str, OverloadedError]:
        """Answer requests here or hand them over; give those that were refused all the same, by request."""
        here: list[Pending] = []
        away: list[Pending] = []
        for pending in pendings:
            tier = pending.entered.tier
            is_here = tier is Tier.DEVICE or self.surroundings.is_saturated(tier)  # a tired tier gets only the rest
            (here if is_here else away).append(pending)
        offloaded = [Leaving(pending, pending.entered.state, pending.entered.tier) for pending in away]
        return self._departures.send(offloaded) | self._departures.send(self._run_here(here) if here else ())

    def _run_here(self, pendings: Sequence[Pending]) -> list[Leaving]:
        """Settle what the device's exit is sure of, and give the rest."""
        try:
            verdicts = run_device_layers(self.device_id, pendings)
        except Exception as exc:  # it is accepted, so it must be answered: by the next tier, from its embedding
            if len(pendings) > 1:
                return [one for pending in pendings for one in self._run_here([pending])]
            (pending,) = pendings
            _LOGGER.exception("%s: inference failed on the device; the edge is asked", pending.request_id)
            pending.failure = f"inference failed on the device: {exc}"
            return [Leaving(pending, pending.entered.state, Tier.EDGE)]
        leaving = []
        for pending, verdict in zip(pendings, verdicts, strict=True):
            match verdict:
                case Exited():
                    self._settler.settle(pending, self._settler.answers.from_exit(pending, verdict, verdict.reason))
                case Unsure():
                    pending.local = verdict.best
                    leaving.append(Leaving(pending, verdict.state, Tier.EDGE))
        return leaving


def _request_id(created_at: float) -> str:
    """Give a random id that sorts by time, so that a large log is written at its end."""
    return f"{int(created_at * 1000):012x}{os.urandom(6).hex()}"
