"""Outcomes to answers: what the caller gets, with its cost."""

import time

from common.engine.pipeline import Exited
from common.errors import WireError
from common.model.manifest import Manifest
from common.routing.cost import CostModel
from common.types import Answer, Hop, Race, Reason, Signature, Tier
from common.wire.messages import Outcome
from device_agent.pending import Pending

_MAX_DETAIL = 400  # characters; a peer may have written it


def storable(text: str | None) -> str | None:
    """Replace what no text column can hold."""
    return None if text is None else text.replace("\0", "\ufffd")


class AnswerMaker:
    """Knows the device's name and the cost model; stateless."""

    def __init__(self, device_id: str, cost: CostModel) -> None:
        self._device_id = device_id
        self._cost = cost

    def from_outcome(self, pending: Pending, outcome: Outcome, signature: Signature | None = None) -> Answer:
        """Answer with what another tier found.

        Raises:
            WireError: It does not fit the model, so it is no outcome of this request.
        """
        _check(outcome, pending.model.manifest)
        index = max(range(len(outcome.logits)), key=outcome.logits.__getitem__)
        return self._answer(
            pending,
            reason=outcome.reason,
            label=pending.model.manifest.labels[index],
            confidence=outcome.confidence,
            exit_layer=outcome.exit_layer,
            exit_tier=outcome.hops[-1].tier,
            threshold=outcome.threshold,
            hops=outcome.hops,
            signature=signature,
        )

    def from_exit(self, pending: Pending, exited: Exited, reason: Reason, detail: str = "") -> Answer:
        """Answer with the device's own exit."""
        return self._answer(
            pending,
            reason=reason,
            label=pending.model.manifest.labels[exited.predictions[-1]],
            confidence=exited.confidence,
            exit_layer=exited.layer,
            exit_tier=Tier.DEVICE,
            threshold=exited.threshold,
            hops=pending.hops,
            detail=detail,
            signature=_refused(pending),
        )

    def race_against(self, outcome: Outcome, manifest: Manifest) -> Race:
        """Tell what another tier said too late.

        Raises:
            WireError: It does not fit the model.
        """
        _check(outcome, manifest)
        index = max(range(len(outcome.logits)), key=outcome.logits.__getitem__)
        return Race(
            loser_tier=outcome.hops[-1].tier,
            loser_label=manifest.labels[index],
            loser_confidence=outcome.confidence,
        )

    def race_here(self, pending: Pending) -> Race | None:
        """Tell what the device's own exit said, if it has run."""
        if pending.local is None:
            return None
        label = pending.model.manifest.labels[pending.local.predictions[-1]]
        return Race(loser_tier=Tier.DEVICE, loser_label=label, loser_confidence=pending.local.confidence)

    def failed(self, pending: Pending, detail: str) -> Answer:
        """Answer that there is no answer."""
        return self._answer(
            pending,
            reason=Reason.FAILED,
            label=None,
            confidence=0.0,
            exit_layer=0,
            exit_tier=Tier.DEVICE,
            threshold=None,
            hops=pending.hops,
            detail=detail,
            signature=_refused(pending),
        )

    def _answer(
        self,
        pending: Pending,
        *,
        reason: Reason,
        label: str | None,
        confidence: float,
        exit_layer: int,
        exit_tier: Tier,
        threshold: float | None,
        hops: tuple[Hop, ...],
        detail: str = "",
        signature: Signature | None,
    ) -> Answer:
        entered = pending.entered
        relayed_bytes = sum(hop.received_bytes for hop in hops[2:])  # from the edge onwards
        return Answer(
            request_id=pending.request_id,
            device_id=self._device_id,
            model_revision=pending.model.manifest.revision,
            reason=reason,
            label=label,
            confidence=confidence,
            exit_layer=exit_layer,
            exit_tier=exit_tier,
            entry_tier=entered.tier,
            total_ms=(time.monotonic() - pending.accepted_at) * 1000,
            threshold=threshold,
            pool=entered.pool,
            distances=entered.distances,
            detail=storable(detail[:_MAX_DETAIL]) or "",
            is_truncated=entered.is_truncated,
            tokens=len(entered.state.hidden_states),
            payload_bytes=pending.sent_bytes + relayed_bytes,
            cost=self._cost.of_hops(hops),
            cost_model=self._cost.name,
            hops=hops,
            attempts=pending.attempts,
            signature=signature,
            trace_id=pending.place.trace_id,
        )


def _refused(pending: Pending) -> Signature | None:
    return Signature.REFUSED if pending.is_signature_refused else None


def _check(outcome: Outcome, manifest: Manifest) -> None:
    logits = outcome.logits
    if outcome.model_revision != manifest.revision:
        raise WireError(f"revision {outcome.model_revision[:32]!r} answers a request of {manifest.revision!r}")
    if len(logits) != len(manifest.labels):
        raise WireError(f"{len(logits)} logits for {len(manifest.labels)} labels")
    if not 0 < outcome.exit_layer <= manifest.num_layers or any(hop.end > manifest.num_layers for hop in outcome.hops):
        raise WireError(f"layers beyond {manifest.num_layers}")
