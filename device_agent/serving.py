"""Inputs from any source into the agent, and each answer to stdout and to its topic."""

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, BinaryIO

from common.errors import InputError, OverloadedError, TransportError
from common.service.lifecycle import Stopping
from common.types import Answer
from common.wire.documents import Input, answer_document, encode_document
from device_agent.agent import Agent

_LOGGER = logging.getLogger(__name__)


class Serving:
    """Classifies what sources bring; answers come as soon as they are known, in any order."""

    def __init__(self, agent: Agent, output: BinaryIO, stopping: Stopping) -> None:
        self._agent = agent
        self._stopping = stopping
        self._output = output
        self._topic = agent.topics.answer(agent.device_id)
        self._lock = threading.Lock()  # one line at a time

    def serve(self, source: Iterable[Input]) -> None:
        """Accept everything a source brings; a refused input is answered with its error."""
        for item in source:
            try:
                future = self._agent.submit(item.text, item.pair, true_label=item.label)
            except (InputError, OverloadedError) as exc:
                _LOGGER.warning("input %r is refused: %s", item.text[:40], exc)
                self._emit({"id": item.id, "error": str(exc)})
            else:
                future.add_done_callback(partial(self._answered, item))

    def _answered(self, item: Input, future: Future[Answer]) -> None:
        self._emit(answer_document(future.result(), input_id=item.id))

    def _emit(self, document: dict[str, Any]) -> None:
        payload = encode_document(document)
        try:
            with self._lock:
                self._output.write(payload + b"\n")
                self._output.flush()
        except (BrokenPipeError, ValueError):  # the reader of stdout is gone
            self._stopping()
        try:
            self._agent.transport.publish(self._topic, payload)
        except TransportError as exc:
            _LOGGER.debug("an answer is not published: %s", exc)
