"""Traces made by a known recipe: deeper exits see a clearer signal."""

import numpy as np

from common.evaluation.trace import Trace


def make_trace(
    samples: int = 400, *, exits: tuple[int, ...] = (1, 2, 3, 4, 5, 6), labels: int = 2, seed: int = 0
) -> Trace:
    random = np.random.default_rng(seed)
    truth = random.integers(0, labels, samples)
    ease = random.exponential(1.0, samples)
    target = np.eye(labels)[truth]  # [N, C]
    noise = random.normal(size=(samples, labels))
    logits = [target * ease[:, None] * layer + noise + random.normal(size=(samples, labels)) * 0.5 for layer in exits]
    features = np.c_[ease, random.normal(size=(samples, 7))]
    return Trace(
        exits=exits,
        temperatures=(1.0,) * len(exits),
        logits=np.stack(logits).astype(np.float32),
        pooled=random.normal(size=(len(exits), samples, 6)).astype(np.float32),
        features=features.astype(np.float32),
        tokens=random.integers(3, 40, samples),
        labels=truth,
    )
