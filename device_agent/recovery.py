"""What a former process left: unanswered requests are taken up again, answered inputs are known again."""

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from common.errors import DimeeError
from common.service.lifecycle import Stopping
from common.store.promises import Contents
from common.types import Answer
from common.wire import codec
from common.wire.messages import LogRecord

if TYPE_CHECKING:
    from device_agent.agent import Agent

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A request of a former process."""

    input_id: str | None
    future: Future[Answer]
    was_answered: bool  # by the former process


class Recovery:
    """Takes requests up on a thread of its own, the earliest deadline first, while new ones are accepted."""

    def __init__(self, agent: "Agent", contents: Contents, stopping: Stopping) -> None:
        self._agent = agent
        self._contents = contents
        self._stopping = stopping
        self._leaving = threading.Event()
        self._futures: list[Future[Answer]] = [Future() for _ in contents.unanswered]
        self._thread = threading.Thread(target=self._run, name="recovery")
        agent.recovered = (*self._answered(), *self._unanswered())

    def __enter__(self) -> Self:
        if self._contents.unanswered or self._contents.unrecorded:
            waiting = (len(self._contents.unanswered), len(self._contents.unrecorded))
            _LOGGER.warning("a former process left %d requests unanswered and %d records unsent", *waiting)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._thread.join()

    def _unanswered(self) -> list[Recovered]:
        pairs = zip(self._contents.unanswered, self._futures, strict=True)
        return [Recovered(input_id=one.input_id, future=future, was_answered=False) for one, future in pairs]

    def _answered(self) -> list[Recovered]:
        found = []
        for kept in (*self._contents.recorded, *self._contents.unrecorded):
            message = codec.decode(kept.record)
            if kept.input_id is not None and isinstance(message, LogRecord):
                future: Future[Answer] = Future()
                future.set_result(message.record.answer)
                found.append(Recovered(input_id=kept.input_id, future=future, was_answered=True))
        return found

    def _run(self) -> None:
        for promised, future in zip(self._contents.unanswered, self._futures, strict=True):
            if self._leaving.is_set() or self._stopping.is_asked:
                return  # the next process goes on
            try:
                self._agent.resume(promised, future)
            except DimeeError:
                _LOGGER.exception("%s: cannot be taken up again; it waits for another start", promised.request_id)
            except Exception as exc:
                _LOGGER.exception("the recovery thread died; this process stops")
                self._stopping(DimeeError(f"the recovery thread died: {exc}"))
                return
