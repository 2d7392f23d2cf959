"""The requests of light devices: what a real device would send, computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.config.settings import DeviceLimits
from common.engine.choice import choose_policy
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline, State, Unsure
from common.errors import ConfigError
from common.model.bundle import Bundle
from common.types import Hop, Tier
from common.wire.messages import HiddenStates

_NOBODY = "recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A message and the tier it goes to; its ids are whoever's sends it."""

    tier: Tier
    message: HiddenStates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaving:
    tier: Tier
    state: State
    hops: tuple[Hop, ...]


class Recordings:
    """What leaves a bundle's device for some texts; those that exit there leave nothing."""

    def __init__(self, bundle: Bundle, policy: str, texts: Sequence[str]) -> None:
        """Run the device's part over the texts.

        Raises:
            ConfigError: None of them leaves the device under this policy.
        """
        chosen, limits = choose_policy(bundle, policy), DeviceLimits()
        self._budget_ms = limits.budget_ms
        self._escalation = Escalation(bundle.manifest, limits.codec)
        self._entrance = Entrance(bundle, chosen)
        self._pipeline = Pipeline(bundle, chosen, depth=bundle.manifest.depths.device)
        self._leaving = [found for text in texts if (found := self._enter(text))]
        if not self._leaving:
            raise ConfigError(f"--policy {policy}: none of {len(texts)} texts leaves the device; try edge-only")

    def requests(self, tokens: int | None = None) -> tuple[Request, ...]:
        """Pack what leaves, each state [S, H] cut or repeated to a number of tokens where one is given."""
        return tuple(self._pack(each, tokens) for each in self._leaving)

    def _enter(self, text: str) -> _Leaving | None:
        entered = self._entrance.enter(text)
        if entered.tier is not Tier.DEVICE:
            return _Leaving(tier=entered.tier, state=entered.state, hops=())
        (verdict,) = self._pipeline.advance([entered.state])
        if not isinstance(verdict, Unsure):
            return None
        best = verdict.best
        hop = Hop(
            tier=Tier.DEVICE,
            node=_NOBODY,
            start=0,
            end=best.layer,
            queue_ms=0.0,
            compute_ms=0.0,
            confidence=best.confidence,
            predictions=best.predictions,
            confidences=best.confidences,
        )
        return _Leaving(tier=Tier.EDGE, state=verdict.state, hops=(hop,))

    def _pack(self, leaving: _Leaving, tokens: int | None) -> Request:
        state = leaving.state
        if tokens is not None:
            hidden = np.resize(state.hidden_states, (tokens, state.hidden_states.shape[1]))  # [tokens, H]
            state = State(hidden_states=hidden, layers_run=state.layers_run)
        message = self._escalation.pack(_NOBODY, _NOBODY, state, budget_ms=self._budget_ms, hops=leaving.hops)
        return Request(tier=leaving.tier, message=message)
