"""Fits temperatures, pools and centroids on the kept-back split; numpy alone.

Nothing here may see the data that is reported.
"""

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError
from common.routing.entry import Dimee
from common.routing.evidence import Floats, Indices, confidence, softmax
from common.routing.exits import Thresholds
from common.types import POOLS, Depths, Pool

Labels = NDArray[np.int64]
Centroids = tuple[tuple[float, ...], ...]

_NEVER = 1e12  # squared distance added to a pool without members
_DIGITS = 6
_TEMPERATURES = (0.05, 20.0)


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """Find the temperature of one exit by likelihood (Guo et al. 2017): the log-likelihood is concave in its inverse.

    Args:
        logits: [N, C] of one exit on the kept-back split.
        labels: [N] class indices.
    """
    if len(labels) == 0:
        raise ConfigError("a temperature needs at least one labelled sample, got none")
    wide = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    for _ in range(60):
        middle = (low + high) / 2
        if _slope(wide, labels, middle) > 0:
            low = middle
        else:
            high = middle
    return round(2 / (low + high), _DIGITS)


def fit_pools(probabilities: tuple[Floats, Floats], labels: Labels, alpha: float) -> Indices:
    """Name each sample's pool [N]: easy if exit m is confident and right, else moderate if exit n is, else hard.

    Args:
        probabilities: Calibrated [N, C] at exits m and n.
        labels: [N] class indices.
        alpha: Confidence that counts as confident.
    """
    is_sure = [(confidence(exit_) >= alpha) & (exit_.argmax(axis=1) == labels) for exit_ in probabilities]
    return _pools(*is_sure)


def fit_cartography_pools(true_at_device: Floats, true_at_edge: Floats, *, easy: float, variable: float) -> Indices:
    """Name each sample's pool [N] from its probabilities over the training epochs (DIMEC-DC, arXiv 2412.16616).

    Easy: high mean at exit m. Moderate: not easy, and a high mean or a high deviation at exit n. Hard: the rest.

    Args:
        true_at_device: [epochs, N], probability of the true label at exit m after each epoch.
        true_at_edge: [epochs, N], likewise at exit n.
        easy: Mean from which a sample counts as confident.
        variable: Standard deviation from which it counts as variable.
    """
    is_moderate = (true_at_edge.mean(axis=0) >= easy) | (true_at_edge.std(axis=0) >= variable)
    return _pools(true_at_device.mean(axis=0) >= easy, is_moderate)


def fit_centroids(features: Floats, pools: Indices) -> tuple[Centroids, tuple[float, float, float]]:
    """Average each pool's masked mean embeddings: centroids [3, H], and offsets that keep an empty pool unnamed.

    Args:
        features: [N, H] masked means of the embedding output.
        pools: [N], positions in POOLS.
    """
    overall = features.mean(axis=0)
    members = [features[pools == pool] for pool in range(len(POOLS))]
    means = [rows.mean(axis=0) if len(rows) else overall for rows in members]
    easy, moderate, hard = (0.0 if len(rows) else _NEVER for rows in members)
    rounded = tuple(tuple(np.round(mean.astype(np.float64), _DIGITS).tolist()) for mean in means)
    return rounded, (easy, moderate, hard)


def fit_priors(features: Floats, pools: Indices, centroids: Centroids) -> tuple[float, float, float]:
    """Find offsets of the squared distances that turn nearest centroid into Bayes' rule with one spherical spread.

    Each class is a Gaussian around its centroid with the pooled variance; the offset is -2·variance·log(prior).
    """
    points = np.asarray(centroids, np.float32)[pools]  # [N, H]
    variance = float(((features - points) ** 2).mean())
    counts = np.bincount(pools, minlength=len(POOLS))
    easy, moderate, hard = (
        float(round(-2 * variance * np.log(count / len(pools)), _DIGITS)) if count else _NEVER for count in counts
    )
    return easy, moderate, hard


def fit_dimee(
    features: Floats, pools: Indices, thresholds: Thresholds, *, has_fallback: bool, has_priors: bool = False
) -> Dimee:
    """Make the policy of given pools."""
    centroids, offsets = fit_centroids(features, pools)
    if has_priors:
        offsets = fit_priors(features, pools, centroids)
    return Dimee(centroids=centroids, thresholds=thresholds, has_fallback=has_fallback, offsets=offsets)


def same_thresholds(alpha: float, depths: Depths) -> Thresholds:
    """Ask for one confidence at exits m and n."""
    return {depths.device: alpha, depths.edge: alpha}


def calibrated(logits: Floats, temperatures: tuple[float, ...]) -> Floats:
    """Probabilities [E, N, C] of logits [E, N, C] under one temperature per exit."""
    return np.stack([softmax(exit_, temperature) for exit_, temperature in zip(logits, temperatures, strict=True)])


def _pools(is_easy: NDArray[np.bool_], is_moderate: NDArray[np.bool_]) -> Indices:
    easy, moderate, hard = (POOLS.index(pool) for pool in (Pool.EASY, Pool.MODERATE, Pool.HARD))
    return np.where(is_easy, easy, np.where(is_moderate, moderate, hard)).astype(np.intp)


def _slope(logits: NDArray[np.float64], labels: Labels, inverse: float) -> float:
    """Derivative of the mean log-likelihood in the inverse temperature."""
    weights = np.exp(inverse * logits)
    weights /= weights.sum(axis=1, keepdims=True)
    expected = (weights * logits).sum(axis=1)
    return float((logits[np.arange(len(labels)), labels] - expected).mean())
