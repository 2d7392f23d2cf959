"""What the kept-back texts teach an exported bundle: a trace of its exits, and their temperatures."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.evaluation.trace import Trace
from common.evaluation.tracing import trace_texts
from common.inputs.examples import LabelledTexts
from common.model.bundle import Bundle
from common.routing.fitting import fit_temperature


def trace_kept_back(bundle: Bundle, kept_back: LabelledTexts, epochs: NDArray[np.float32]) -> Trace:
    """Run the kept-back texts through a bundle as the tiers would, and fit every exit's temperature.

    Args:
        bundle: Segments that are not calibrated yet.
        kept_back: N texts whose labels the training data named.
        epochs: [T, L, N], probability of the true label after each training epoch, at all exits of the backbone.
    """
    pairs = kept_back.pairs or (None,) * len(kept_back)
    labels = kept_back.label_indices(bundle.manifest.training["labels"])
    trace = trace_texts(bundle, list(zip(kept_back.texts, pairs, strict=True)), labels)
    return replace(
        trace,
        temperatures=tuple(fit_temperature(exit_logits, trace.labels) for exit_logits in trace.logits),
        pooled=_coarse(trace.pooled, steps=64),
        features=_coarse(trace.features, steps=128),
        probabilities_by_epoch=epochs[:, [layer - 1 for layer in trace.exits]],
    )


def _coarse(states: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Round to so many steps up to the largest value: the bundle's archive packs them into a third of the space."""
    step = max(float(np.abs(states).max()), 1e-12) / steps
    coarse: NDArray[np.float32] = (np.round(states / step) * step).astype(np.float32)
    return coarse
