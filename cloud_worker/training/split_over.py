"""Split training over MQTT: the device's loop, and the server that answers it; bytes counted both ways."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.split_parts import DevicePart, ServerPart
from common.errors import TransportError, WireError
from common.transport.contract import Delivery, Inbox, Transport
from common.wire.topics import Topics
from common.wire.training import Activations, Learned, Refused, decode_training, encode_training

_LOGGER = logging.getLogger(__name__)
_RESEND_S = 15.0
_ATTEMPTS = 8
_PATIENCE_S = 0.5  # between two looks at whether to stop
_EVALUATION_BATCH = 32
_AXES_TEXTS = 256


@dataclass(slots=True, kw_only=True)
class Traffic:
    """Bytes of messages."""

    up_bytes: int = 0
    down_bytes: int = 0


class TrainingServer:
    """Answers activations one after another; a step that comes again is answered again, not learned again."""

    def __init__(self, part: ServerPart, transport: Transport, topics: Topics) -> None:
        self._inbox = Inbox(16)
        self._part = part
        self._transport = transport
        self._topics = topics
        self._last: tuple[int, bytes] = (-1, b"")
        transport.subscribe(topics.training("up"), self._inbox)

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Serve until asked to stop."""
        while not is_stopping() and not self._inbox.is_drained:
            if (delivery := self._inbox.get(timeout=_PATIENCE_S)) is not None:
                self._answer(delivery)

    def _answer(self, delivery: Delivery) -> None:
        try:
            message = decode_training(delivery.payload)
        except WireError as exc:  # nobody to answer
            _LOGGER.warning("refused %d bytes on %s: %s", len(delivery.payload), delivery.topic, exc)
            return
        if not isinstance(message, Activations):
            _LOGGER.warning("a %s is nothing for a server part; refused", type(message).__name__)
            return
        if message.step != self._last[0]:
            self._last = (message.step, encode_training(self._learn(message)))
        self._transport.publish(self._topics.training("down"), self._last[1])

    def _learn(self, message: Activations) -> Learned | Refused:
        try:
            return self._part.answer(message)
        except WireError as exc:
            _LOGGER.warning("step %d: refused: %s", message.step, exc)
            return Refused(step=message.step, detail=str(exc)[:400])


class TrainingDevice:
    """Trains its part together with a server part at the other end of a transport."""

    def __init__(self, part: DevicePart, transport: Transport, topics: Topics) -> None:
        self.traffic = Traffic()
        self._part = part
        self._transport = transport
        self._topics = topics
        self._inbox = Inbox(16)
        self._step = 0
        transport.subscribe(topics.training("down"), self._inbox)

    def train(self, texts: EncodedTexts, batches: Iterable[list[int]], after_step: Callable[[float], None]) -> None:
        """Take one step per batch of rows; with a budget, the link begins with texts from all over.

        Raises:
            TransportError: The server does not answer.
            WireError: The server refused a step, or sent what does not fit.
        """
        if self._part.is_thin:
            self._part.open_link(texts.batch(range(0, len(texts), -(-len(texts) // _AXES_TEXTS))))
        for rows in batches:
            learned = self._exchange(self._part.send(texts.batch(rows), self._step))
            after_step(self._part.learn(learned))
            self._step += 1

    def is_right(self, texts: EncodedTexts) -> NDArray[np.bool_]:
        """Say of each text [N] whether the last exit names it rightly."""
        found = np.zeros(len(texts), bool)
        for batch in texts.in_order_of_length(_EVALUATION_BATCH):
            said = self._exchange(self._part.send(batch, self._step, is_learning=False))
            self._step += 1
            found[batch.rows.numpy()] = np.array(said.predictions) == batch.labels.numpy()
        return found

    def _exchange(self, message: Activations) -> Learned:
        payload = encode_training(message)
        for _ in range(_ATTEMPTS):
            self.traffic.up_bytes += len(payload)
            self._transport.publish(self._topics.training("up"), payload)
            while (delivery := self._inbox.get(timeout=_RESEND_S)) is not None:
                self.traffic.down_bytes += len(delivery.payload)
                answer = decode_training(delivery.payload)
                match answer:
                    case Learned() if answer.step == message.step:
                        return answer
                    case Refused() if answer.step == message.step:
                        raise WireError(f"the server refused step {message.step}: {answer.detail}")
        raise TransportError(
            f"no answer to step {message.step} within {_ATTEMPTS * _RESEND_S:.0f} s; is a server part up?"
        )
