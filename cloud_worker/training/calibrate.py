"""What the kept-back texts teach an exported bundle: a trace of its exits, and their temperatures."""

import numpy as np
from numpy.typing import NDArray

from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.parity import Chain
from common.evaluation.trace import Trace
from common.routing.fitting import fit_temperature

MAX_DROP = 0.003  # of accuracy, against the last exit on the kept-back texts
_GRID = tuple(np.round(np.concatenate([np.arange(0.5, 0.98, 0.02), np.arange(0.98, 1.0, 0.002)]), 4).tolist())


def trace_kept_back(chain: Chain, texts: EncodedTexts, epochs: NDArray[np.float32]) -> Trace:
    """Run the kept-back texts through the exported segments and fit every exit's temperature.

    One text at a time, as a device does: int8 activations are scaled by batch, so a batch answers otherwise.

    Args:
        chain: The exported segments.
        texts: N kept-back texts.
        epochs: [T, L, N], probability of the true label after each training epoch, at all exits of the backbone.
    """
    outputs = [chain.run(texts.batch([row])) for row in range(len(texts))]
    logits = np.concatenate([output.logits for output in outputs], axis=1)  # [E, N, C]
    labels = texts.labels.numpy()
    return Trace(
        exits=chain.exits,
        temperatures=tuple(fit_temperature(exit_logits, labels) for exit_logits in logits),
        logits=logits,
        pooled=_coarse(np.concatenate([output.pooled for output in outputs], axis=1), steps=64),
        features=_coarse(np.concatenate([output.embedded.mean(axis=1) for output in outputs]), steps=128),
        tokens=texts.lengths.astype(np.intp),
        labels=labels,
        probabilities_by_epoch=epochs[:, [layer - 1 for layer in chain.exits]],
    )


def _coarse(states: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Round to so many steps up to the largest value: the bundle's archive packs them into a third of the space."""
    step = max(float(np.abs(states).max()), 1e-12) / steps
    coarse: NDArray[np.float32] = (np.round(states / step) * step).astype(np.float32)
    return coarse
