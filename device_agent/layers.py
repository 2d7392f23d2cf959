"""The device's own layers over accepted requests."""

import logging
import time
from collections.abc import Sequence

from common.engine.pipeline import Verdict
from common.types import Hop, Tier
from device_agent.pending import Pending

_LOGGER = logging.getLogger(__name__)


def run_device_layers(device_id: str, pendings: Sequence[Pending]) -> list[Verdict]:
    """Run [0, m) over the embeddings of requests that began with one model, and note the device's hop in each."""
    computed_at = time.monotonic()
    verdicts = pendings[0].model.pipeline.advance([pending.entered.state for pending in pendings])
    together_ms = sum(verdict.best.compute_ms for verdict in verdicts)
    for pending, verdict in zip(pendings, verdicts, strict=True):
        best = verdict.best
        hop = Hop(
            tier=Tier.DEVICE,
            node=device_id,
            start=0,
            end=best.layer,
            queue_ms=together_ms - best.compute_ms,  # for those that ran beside it
            compute_ms=best.compute_ms,
            confidence=best.confidence,
            predictions=best.predictions,
            confidences=best.confidences,
        )
        pending.computed_at = computed_at
        pending.hops = (*pending.hops, hop)
    return verdicts


def compute_here(device_id: str, pending: Pending) -> None:
    """Find the device's own exit; a failure is noted, for the request must end all the same."""
    try:
        (verdict,) = run_device_layers(device_id, [pending])
    except Exception as exc:
        _LOGGER.exception("%s: inference failed on the device", pending.request_id)
        pending.failure = f"inference failed on the device: {exc}"
    else:
        pending.local = verdict.best
