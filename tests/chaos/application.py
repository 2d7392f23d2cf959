"""An application: sends inputs with ids, asks again when no answer comes, and remembers every answer it got."""

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from common.errors import TransportError
from common.transport.contract import Inbox
from common.transport.mqtt import MqttTransport
from tests.chaos.processes import Fleet
from tests.tiny import sentences

_ASK_AGAIN_S = 3.0


@dataclass(slots=True)
class Question:
    """One input and what came of it."""

    input_id: str
    device: str
    text: str
    label: str
    sent_at: float = 0.0
    answers: set[tuple[str, str, str | None]] = field(default_factory=set)  # request id, reason, label


class Application:
    """Keeps up to ``most`` questions open per device, at up to ``rate`` a second in all."""

    def __init__(self, fleet: Fleet, *, total: int, rate: float, most: int, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.questions: dict[str, Question] = {}
        self.full_at: dict[tuple[str, str], float] = {}  # when the last full answer came, by device and tier
        self._fleet = fleet
        self._total = total
        self._rate = rate
        self._most = most
        self._texts = sentences(2000, seed)
        self._random = random.Random(seed)
        self._open: dict[str, dict[str, Question]] = {name: {} for name in fleet.devices}
        self._lock = threading.Lock()
        self._ending = threading.Event()  # no new questions
        self._leaving = threading.Event()
        self._inbox = Inbox(1_000_000)
        self._transport = MqttTransport(fleet.settings("app"), client_id=f"{fleet.site}-app")
        self._transport.subscribe(fleet.topics.answer("+"), self._inbox)
        self._threads = [
            threading.Thread(target=self._ask, name="ask"),
            threading.Thread(target=self._hear, name="hear"),
        ]

    def __enter__(self) -> Self:
        self._transport.__enter__()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._transport.__exit__(None, None, None)
        for thread in self._threads:
            thread.join()

    @property
    def num_open(self) -> int:
        return sum(len(waiting) for waiting in self._open.values())

    @property
    def is_done(self) -> bool:
        return len(self.questions) >= self._total

    def end(self, limit_s: float) -> bool:
        """Ask nothing new, and wait for what is open; say whether all was answered."""
        self._ending.set()
        until = time.monotonic() + limit_s
        while self.num_open and time.monotonic() < until:
            time.sleep(0.1)
        return not self.num_open

    def _ask(self) -> None:
        allowance, last = 0.0, time.monotonic()
        while not self._leaving.wait(0.01):
            now = time.monotonic()
            allowance, last = min(self._rate, allowance + (now - last) * self._rate), now
            while allowance >= 1 and not self._ending.is_set() and not self.is_done and self._ask_one(now):
                allowance -= 1
            self._ask_again(now)

    def _ask_one(self, now: float) -> bool:
        device = min(self._open, key=lambda name: (len(self._open[name]), self._random.random()))
        if len(self._open[device]) >= self._most:
            return False
        number = len(self.questions)
        text, label = self._texts[number % len(self._texts)]
        question = Question(f"q{number}", device, text, label)
        with self._lock:
            self.questions[question.input_id] = self._open[device][question.input_id] = question
        self._send(question, now)
        return True

    def _ask_again(self, now: float) -> None:
        with self._lock:
            late = [q for waiting in self._open.values() for q in waiting.values() if now - q.sent_at > _ASK_AGAIN_S]
        for question in late:
            self.counts["asked_again"] += 1
            self._send(question, now)

    def _send(self, question: Question, now: float) -> None:
        question.sent_at = now + self._random.random()
        document = {"text": question.text, "id": question.input_id, "label": question.label}
        try:
            topic = self._fleet.topics.input(question.device)
            self._transport.publish(topic, json.dumps(document).encode(), expiry_s=_ASK_AGAIN_S)
        except TransportError:
            self.counts["unsent"] += 1

    def _hear(self) -> None:
        for delivery in self._inbox:
            answer = json.loads(delivery.payload)
            question = self.questions.get(str(answer.get("id")))
            if question is None:
                self.counts["answers_without_id"] += 1
            elif "error" in answer:
                self.counts["refused_inputs"] += 1  # nothing was accepted; it is asked again
            else:
                self._note(question, answer, delivery.received_at)

    def _note(self, question: Question, answer: dict[str, Any], now: float) -> None:
        if question.answers:
            self.counts["duplicates_seen"] += 1
        else:
            self.reasons[answer["reason"]] += 1
            self.counts["degraded_without_reason"] += (
                answer["reason"] in {"degraded", "failed"} and not answer["detail"]
            )
        question.answers.add((answer["request_id"], answer["reason"], answer["label"]))
        if answer["reason"] in {"confident", "final"} and not answer.get("is_repeated"):
            self.full_at[question.device, answer["exit_tier"]] = now
        with self._lock:
            self._open[question.device].pop(question.input_id, None)
