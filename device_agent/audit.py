"""Verifiable offload: a random sample of other tiers' answers, computed once more on the device.

Who alters a share ``p`` of the answers cannot know which ones are computed again (a share ``r``, drawn by the system's
random source once an answer has come), so n requests catch him with probability 1 - (1 - p * r) ** n.
"""

import logging
import math
import queue
import secrets
import threading
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from common.engine.escalation import unpack_state
from common.engine.pipeline import Exited, Pipeline
from common.errors import ModelMismatchError, WireError
from common.model.bundle import Bundle
from common.routing.exits import ConfidenceCascade
from common.wire.messages import HiddenStates, Outcome

_LOGGER = logging.getLogger(__name__)
_MAX_WAITING = 64
TOLERANCE = 0.5  # of a logit: int8 on another processor, and hidden states that were packed once more on their way


@dataclass(frozen=True, slots=True)
class _Claim:
    message: HiddenStates
    outcome: Outcome


class Auditor(Protocol):
    """Decides which answers are looked into."""

    def consider(self, message: HiddenStates | None, outcome: Outcome) -> None:
        """Take an answer and what it was computed from."""
        ...


class NoAudit:
    """Believes every answer."""

    def consider(self, message: HiddenStates | None, outcome: Outcome) -> None:
        """Believe it."""


class Audit:
    """Computes a share of the answers again, from the states that left, on a thread of its own."""

    def __init__(self, bundle: Bundle, rate: float, threads: int = 1, *, sends_tokens: bool = False) -> None:
        """Load all layers, and the embedding where tokens leave.

        Raises:
            ArtifactError: The bundle has not all of them, or they are not intact.
        """
        self.counters: Counter[str] = Counter()
        never = ConfidenceCascade(thresholds={})  # stops where it is told to, and nowhere else
        self._pipeline = Pipeline(
            bundle, never, depth=bundle.manifest.num_layers, threads=threads, takes_tokens=sends_tokens
        )
        self._rate = rate
        self._claims: queue.Queue[_Claim | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="audit")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._claims.put(None)
        self._thread.join()

    def consider(self, message: HiddenStates | None, outcome: Outcome) -> None:
        """Draw whether an answer is computed again; never waits."""
        if message is None or not is_drawn(self._rate):
            return
        try:
            self._claims.put_nowait(_Claim(message, outcome))
        except queue.Full:
            self.counters["audit_skipped"] += 1

    def holds(self, message: HiddenStates, outcome: Outcome) -> bool:
        """Compute an answer again and compare.

        Raises:
            ModelMismatchError: It is of another revision, so it cannot be computed here.
            WireError: What was sent cannot be read.
        """
        if any(hop.variant for hop in outcome.hops[len(message.hops) :]):
            raise ModelMismatchError("another variant of the model has computed it")
        pipeline = self._pipeline
        state = unpack_state(message, pipeline.manifest, pipeline.links, pipeline.embedding)
        (verdict,) = pipeline.advance([state], upto=outcome.exit_layer)
        best = verdict if isinstance(verdict, Exited) else verdict.best
        if best.layer != outcome.exit_layer or len(best.logits) != len(outcome.logits):
            return False  # no tier ends there
        return max(abs(ours - theirs) for ours, theirs in zip(best.logits, outcome.logits, strict=True)) <= TOLERANCE

    def _run(self) -> None:
        while (claim := self._claims.get()) is not None:
            try:
                is_right = self.holds(claim.message, claim.outcome)
            except (ModelMismatchError, WireError, ValueError) as exc:
                self.counters["audit_impossible"] += 1
                _LOGGER.debug("%s: cannot be computed again: %s", claim.outcome.request_id, exc)
                continue
            self.counters["audited"] += 1
            if not is_right:
                self.counters["audit_failed"] += 1
                nodes = " and ".join(hop.node for hop in claim.outcome.hops[len(claim.message.hops) :])
                _LOGGER.error("%s: %s did not compute this answer", claim.outcome.request_id, nodes)


def is_drawn(rate: float) -> bool:
    """Draw with a probability; nobody can foresee it."""
    return secrets.randbelow(1 << 53) < rate * (1 << 53)


def requests_until_caught(cheating: float, rate: float, probability: float = 0.99) -> int:
    """Give after how many requests a tier that alters a share of its answers is caught with a probability."""
    return math.ceil(math.log(1 - probability) / math.log1p(-cheating * rate))
