"""Task metrics and their paired bootstrap."""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError
from common.evaluation.simulation import Numbers
from common.routing.evidence import Indices

Metric = Literal["accuracy", "matthews"]
Labels = NDArray[np.int64]

_RESAMPLES = 2000
_CHUNK = 200  # resamples at a time: keeps 10,000 samples under 20 MB


class Interval(msgspec.Struct, frozen=True):
    """A 95 % interval by percentile."""

    low: float
    high: float


def score(metric: Metric, predictions: Indices, labels: Labels, weights: Numbers | None = None) -> float:
    """Accuracy 0..1, or Matthews correlation -1..1 for any number of labels (R_K of Gorodkin 2004).

    Args:
        metric: Which.
        predictions: [N] classes.
        labels: [N] classes.
        weights: [N] times that each sample counts; once each by default.
    """
    if metric == "accuracy":
        return float(np.average(predictions == labels, weights=weights))
    classes = int(max(predictions.max(), labels.max())) + 1
    counts = np.bincount(labels * classes + predictions, weights=weights, minlength=classes**2)
    return float(_matthews(counts.astype(np.float64).reshape(1, classes, classes))[0])


def check_labels(metric: Metric, labels: Labels) -> None:
    """Refuse data on which a metric means nothing.

    Raises:
        ConfigError: A correlation is asked of samples that all have one label.
    """
    if metric == "matthews" and len(np.unique(labels)) < 2:
        raise ConfigError("Matthews correlation needs samples of two labels at least; every sample here has the same")


class Bootstrap:
    """Paired bootstrap: every policy and the reference see the same resampled samples."""

    def __init__(self, samples: int, *, resamples: int = _RESAMPLES, seed: int = 0) -> None:
        self._samples, self._resamples, self._seed = samples, resamples, seed

    def means(self, values: Numbers) -> Numbers:
        """Means [resamples, K] of values [N, K] over each resample."""
        return np.concatenate([counts @ values for counts in self._counts()]) / self._samples

    def scores(self, metric: Metric, predictions: NDArray[np.intp], labels: Labels) -> Numbers:
        """Metric [resamples, K] of predictions [K, N] over each resample."""
        if metric == "accuracy":
            return self.means((predictions == labels).T.astype(np.float64))
        classes = int(max(predictions.max(), labels.max())) + 1
        cells = np.eye(classes**2)[labels * classes + predictions]  # [K, N, C*C]
        flat = np.moveaxis(cells, 0, 1).reshape(len(labels), -1)  # [N, K*C*C]
        return _matthews(self.means(flat).reshape(-1, len(predictions), classes, classes))

    def _counts(self) -> list[Numbers]:
        random = np.random.default_rng(self._seed)
        chance = np.full(self._samples, 1 / self._samples)
        sizes = [min(_CHUNK, self._resamples - start) for start in range(0, self._resamples, _CHUNK)]
        return [random.multinomial(self._samples, chance, size).astype(np.float64) for size in sizes]


def interval(values: Numbers) -> Interval:
    """Middle 95 % of bootstrap values [resamples]."""
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def _matthews(confusion: Numbers) -> Numbers:
    """R_K of confusions [..., C, C] by label and prediction; 0 where one side never varies."""
    true, guessed = confusion.sum(axis=-1), confusion.sum(axis=-2)
    total = confusion.sum(axis=(-1, -2))
    covariance = np.trace(confusion, axis1=-2, axis2=-1) * total - (true * guessed).sum(axis=-1)
    spread = (total**2 - (guessed**2).sum(axis=-1)) * (total**2 - (true**2).sum(axis=-1))
    defined = spread > 0
    return np.where(defined, covariance / np.sqrt(np.where(defined, spread, 1)), 0.0)
