"""Where a bundle's own record says that answers exit, and how far others are from it."""

from collections.abc import Mapping

import numpy as np

from common.evaluation.simulation import simulate
from common.evaluation.trace import CALIBRATION_FILE, read_calibration
from common.model.bundle import Bundle
from common.routing.policies import Policy


def expected_exits(bundle: Bundle, policy: Policy) -> dict[int, float]:
    """Give the share of each exit layer on the split that the bundle kept back; empty where it kept none.

    Raises:
        ArtifactError: The record is broken.
    """
    if CALIBRATION_FILE not in bundle.manifest.files:
        return {}
    trace = read_calibration(bundle)
    taken = np.bincount(simulate(policy, trace, bundle.manifest.depths).exits, minlength=len(trace.exits))
    return {layer: float(count / len(trace)) for layer, count in zip(trace.exits, taken, strict=True)}


def drift(expected: Mapping[int, float], found: Mapping[int, int]) -> float:
    """Share of answers that would have to exit elsewhere: the total variation distance, 0..1."""
    total = sum(found.values())
    if not total or not expected:
        return 0.0
    layers = expected.keys() | found.keys()
    return sum(abs(expected.get(layer, 0.0) - found.get(layer, 0) / total) for layer in layers) / 2
