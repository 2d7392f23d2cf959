"""Fits router heads on the kept-back split: logistic regression by Newton, its ridge chosen by cross-validation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.routing.arrays import Array
from common.routing.evidence import EntryEvidence, ExitEvidence, Floats
from common.routing.router import RouterHead, entry_features, exit_features

Numbers = NDArray[np.float64]

_RIDGES = (1e-3, 1e-2, 1e-1)  # per sample, on standardised features
_FOLDS = 5
_NEWTON_STEPS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Logistic regression on standardised features."""

    mean: Numbers  # [F]
    scale: Numbers  # [F]
    weights: Numbers  # [F + 1], the bias last

    def logits(self, features: Numbers) -> Numbers:
        """Log-odds [N]."""
        scaled = (features - self.mean) / self.scale
        return scaled @ self.weights[:-1] + self.weights[-1]  # type: ignore[no-any-return]


def fit_exit_head(evidence: ExitEvidence, pays: Numbers, *, widths: tuple[int, ...] = (0, 8)) -> RouterHead:
    """Fit the head of one exit.

    Args:
        evidence: The exit on the kept-back split.
        pays: [N], 0..1: whether a deeper tier corrects this exit, or how likely that is.
        widths: Numbers of principal components of the pooled state to choose from.
    """
    projections = [_principal(evidence.pooled, width) for width in widths]
    return _best_head([(projection, exit_features(evidence, projection)) for projection in projections], pays)


def fit_entry_head(evidence: EntryEvidence, leaves: Numbers, *, widths: tuple[int, ...] = (0, 16, 64)) -> RouterHead:
    """Fit the head before layer 0; ``leaves`` [N] says whether the device would not answer."""
    projections = [_principal(evidence.features, width) for width in widths]
    return _best_head([(projection, entry_features(evidence, projection)) for projection in projections], leaves)


def proxy_labels(is_right: NDArray[np.bool_], deeper: NDArray[np.bool_]) -> Numbers:
    """Label 1 ("query") where this exit is wrong and a deeper one right; both wrong is no reason to ask (section 3)."""
    return (~is_right & deeper).astype(np.float64)


def _best_head(candidates: list[tuple[Floats, Floats]], targets: Numbers) -> RouterHead:
    losses = {
        (place, ridge): _held_out_loss(features.astype(np.float64), targets, ridge)
        for place, (_, features) in enumerate(candidates)
        for ridge in _RIDGES
    }
    place, ridge = min(losses, key=lambda choice: losses[choice])
    projection, features = candidates[place]
    found = fit_logistic(features.astype(np.float64), targets, ridge)
    return RouterHead(
        projection=Array.of(projection),
        shift=Array.of(found.mean),
        weights=Array.of(found.weights[:-1] / found.scale),
        bias=float(found.weights[-1]),
    )


def fit_logistic(features: Numbers, targets: Numbers, ridge: float) -> Linear:
    """Minimise the mean log-loss of targets 0..1 plus ridge/2·|weights|², the bias free."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-8, scale, 1.0)
    design = np.c_[(features - mean) / scale, np.ones(len(features))]  # [N, F + 1]
    penalty = np.r_[np.full(features.shape[1], ridge), 1e-9]
    weights = np.zeros(design.shape[1])
    for _ in range(_NEWTON_STEPS):
        chances = _sigmoid(design @ weights)
        slope = design.T @ (chances - targets) / len(targets) + penalty * weights
        bend = (design * (chances * (1 - chances) + 1e-9)[:, None]).T @ design / len(targets) + np.diag(penalty)
        step = np.linalg.solve(bend, slope)
        weights -= step * min(1.0, 5.0 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return Linear(mean=mean, scale=scale, weights=weights)


def _held_out_loss(features: Numbers, targets: Numbers, ridge: float) -> float:
    folds = np.arange(len(targets)) % _FOLDS
    losses = np.zeros(len(targets))
    for fold in range(_FOLDS):
        inside = folds != fold
        logits = fit_logistic(features[inside], targets[inside], ridge).logits(features[~inside])
        losses[~inside] = np.logaddexp(0, logits) - targets[~inside] * logits
    return float(losses.mean())


def _principal(states: Floats, width: int) -> Floats:
    """First principal axes [state, width]."""
    if width == 0 or width > min(states.shape):
        return np.zeros((states.shape[1], 0), np.float32)
    centred = states.astype(np.float64) - states.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return axes[:, ::-1][:, :width].astype(np.float32)


def _sigmoid(values: Numbers) -> Numbers:
    chances: Numbers = 1 / (1 + np.exp(-np.clip(values, -30, 30)))
    return chances
