"""Verifiable offload: a random sample of other tiers' answers, computed once more on the device.

Who alters a share ``p`` of the answers cannot know which ones are computed again (a share ``r``, drawn by the system's
random source once an answer has come), so n requests catch him with probability 1 - (1 - p * r) ** n.
"""

import copy
import itertools
import logging
import math
import queue
import secrets
import threading
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from common.engine.escalation import Escalation, unpack_state
from common.engine.pipeline import Pipeline, State, Unsure
from common.engine.thinness import Always, Thinness
from common.errors import ConfigError, ModelMismatchError, WireError
from common.model.bundle import Bundle
from common.routing.exits import ConfidenceCascade
from common.types import Hop
from common.wire.activations import CODEC_NAMES
from common.wire.messages import HiddenStates, Outcome

_LOGGER = logging.getLogger(__name__)
_MAX_WAITING = 64
TOLERANCE = 0.5  # of a logit: int8 on another processor


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
    """Computes a share of the answers again, from the states that left, on a thread of its own.

    What one tier handed on to the next is packed again as the next one says it came: codec, width and tokens.
    """

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
            WireError: What was sent cannot be read, or went on between the tiers in a codec that is not known here.
        """
        away = outcome.hops[len(message.hops) :]
        if any(hop.variant for hop in away):
            raise ModelMismatchError("another variant of the model has computed it")
        pipeline = self._pipeline
        state: State | None = unpack_state(message, pipeline.manifest, pipeline.links, pipeline.embedding)
        for hop, onward in itertools.pairwise(away):
            state = None if state is None else self._carried(state, hop, onward)
        if state is None:
            return False  # no tier hands on like that
        (verdict,) = pipeline.advance([state], upto=outcome.exit_layer)
        best = verdict.best
        if best.layer != outcome.exit_layer or len(best.logits) != len(outcome.logits):
            return False  # no tier ends there
        return max(abs(ours - theirs) for ours, theirs in zip(best.logits, outcome.logits, strict=True)) <= TOLERANCE

    def _carried(self, state: State, hop: Hop, onward: Hop) -> State | None:
        """Give what a tier made of a state as it came to the next one; None where it cannot have come so."""
        if hop.end not in self._pipeline.split_points or hop.end <= state.layers_run:
            return None
        tier = copy.copy(self._pipeline)  # the same segments, ending where the tier's do
        tier.depth = hop.end
        (verdict,) = tier.advance([state])
        return self._packed(verdict.state, onward) if isinstance(verdict, Unsure) else None

    def _packed(self, state: State, onward: Hop) -> State | None:
        """Pack a state as a hop says it came, and unpack it; None where that is no form of it."""
        if onward.codec not in CODEC_NAMES:
            raise WireError(f"the states went on as {onward.codec!r}, which is not known here")
        manifest = self._pipeline.manifest
        links = {at: link for at, link in self._pipeline.links.items() if at == state.layers_run}
        form = onward.received_tokens, onward.received_width
        budget = 0 if form[1] == manifest.hidden_size else form[1]
        thinness = Thinness(codec=onward.codec, budget=budget, tokens=min(1.0, form[0] / len(state.hidden_states)))
        try:
            escalation = Escalation(manifest, onward.codec, links=links, chooser=Always(thinness, links))
        except ConfigError:
            return None
        received = unpack_state(escalation.pack("audit", "audit", state, budget_ms=0.0, hops=()), manifest, links)
        return received if received.form == form else None

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
