"""Inputs from any source into the agent, and each answer to stdout and to its topic."""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, BinaryIO, Self

from common.errors import CrashError, DimeeError, InputError, TransportError
from common.service.lifecycle import Stopping
from common.types import Answer
from common.wire.documents import Input, answer_document, encode_document
from device_agent.agent import MOST_TOGETHER, Agent
from device_agent.sources import Arrival

_LOGGER = logging.getLogger(__name__)
_MAX_UNWRITTEN = 4096  # answers that wait for a slow reader of stdout before no more inputs are taken
_POLL_S = 0.1


class Serving:
    """Classifies what sources bring; answers come as soon as they are known, in any order.

    An input whose ``id`` is known is the same request: its one answer is given again, and nothing is computed.
    """

    def __init__(self, agent: Agent, output: BinaryIO, stopping: Stopping, *, max_remembered: int = 4096) -> None:
        self._agent = agent
        self._stopping = stopping
        self._output = output
        self._topic = agent.topics.answer(agent.device_id)
        self._max_remembered = max_remembered
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Future[Answer]] = OrderedDict()  # by the application's id, oldest first
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="answers")

    def __enter__(self) -> Self:
        self._writer.start()
        for one in self._agent.recovered:
            if one.input_id is not None:
                self._remember(one.input_id, one.future)
            if not one.was_answered:
                one.future.add_done_callback(partial(self._answered, one.input_id))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is answered; the agent is to be closed first, so that all is."""
        self._lines.put(None)
        self._writer.join()

    def serve(self, source: Iterable[Sequence[Arrival]]) -> None:
        """Accept everything a source brings; a refused input is answered with its error."""
        for arrivals in source:
            for begin in range(0, len(arrivals), MOST_TOGETHER):
                while self._lines.qsize() > _MAX_UNWRITTEN and not self._stopping.wait(_POLL_S):
                    pass
                self._take(arrivals[begin : begin + MOST_TOGETHER])

    def listen(self, source: Iterable[Sequence[Arrival]]) -> None:
        """Serve on a thread of its own; its crash ends the process."""
        try:
            self.serve(source)
        except Exception as exc:
            _LOGGER.exception("the %s thread died; this process stops", threading.current_thread().name)
            self._stopping(CrashError(f"the {threading.current_thread().name} thread died: {exc}"))

    def _take(self, arrivals: Sequence[Arrival]) -> None:
        fresh: list[Input] = []
        for item in arrivals:
            if isinstance(item, InputError):
                self._refuse(None, item)
            elif self._is_fresh(item):
                fresh.append(item)
        for item, accepted in zip(fresh, self._agent.submit_all(fresh), strict=True):
            if isinstance(accepted, DimeeError):
                self._forget(item)
                self._refuse(item.id, accepted)
                continue
            if item.id is not None:
                self._remember(item.id, accepted)
            accepted.add_done_callback(partial(self._answered, item.id))

    def _is_fresh(self, item: Input) -> bool:
        """Hold the place of an input with an id; one that is known is answered from memory, and is not fresh."""
        if item.id is None:
            return True
        with self._lock:
            known = self._known.get(item.id)
            if known is None:
                self._known[item.id] = Future()  # a twin that comes meanwhile waits for the same answer
                return True
        self._repeat(item, known)
        return False

    def _forget(self, item: Input) -> None:
        if item.id is not None:
            with self._lock:
                self._known.pop(item.id, None)

    def _refuse(self, input_id: str | None, error: DimeeError) -> None:
        _LOGGER.warning("an input is refused: %s", error)
        self._emit({"id": input_id, "error": str(error)})

    def _remember(self, input_id: str, future: Future[Answer]) -> None:
        with self._lock:
            self._known[input_id] = future
            while len(self._known) > self._max_remembered:
                self._known.popitem(last=False)

    def _repeat(self, item: Input, known: Future[Answer]) -> None:
        """Give a known answer again: whoever asks twice may have missed it. One on its way comes by itself."""
        if known.done() and known.exception() is None:
            self._emit(answer_document(known.result(), input_id=item.id) | {"is_repeated": True})

    def _answered(self, input_id: str | None, future: Future[Answer]) -> None:
        error = future.exception()
        if error is None:
            self._emit(answer_document(future.result(), input_id=input_id))
        elif not isinstance(error, CrashError):
            raise error

    def _emit(self, document: dict[str, Any]) -> None:
        """Publish, and queue for stdout: the thread that settles must not wait for a reader."""
        payload = encode_document(document)
        self._lines.put(payload + b"\n")
        try:
            self._agent.transport.publish(self._topic, payload)
        except TransportError as exc:
            _LOGGER.debug("an answer is not published: %s", exc)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._output.write(line)
                if self._lines.empty():
                    self._output.flush()
            except (BrokenPipeError, ValueError):  # the reader of stdout is gone
                self._stopping()
