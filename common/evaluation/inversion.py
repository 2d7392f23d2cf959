"""An attack on hidden states: which token stands at a position, told from that position's values alone."""

import numpy as np
from numpy.typing import NDArray

from common.routing.evidence import Floats, Indices

_SHRINKAGE = 1e-3  # of a covariance towards a multiple of the identity
_PSEUDO_COUNT = 0.1  # of a token that the attack never met
_CHUNK = 1024  # rows of scores at a time: 30,000 tokens take 120 MB


class Inversion:
    """A Gaussian for every token of the vocabulary, met or not; all share one covariance.

    The embedding is public, so a token's mean state is a linear map of its embedding, fitted on the tokens met: linear
    discriminant analysis whose class means are regressed. It guesses words that it never met. It knows how noise and
    codec scatter the states, and looks past the directions in which they scatter most.
    """

    def __init__(self, clean: Floats, sent: Floats, *, ids: Indices, embeddings: Floats) -> None:
        """Learn from known texts, which an attacker can run through the public model himself.

        Args:
            clean: [N, W], states without noise.
            sent: [N, W], the same states as they come off the wire.
            ids: [N], the tokens that they stand for.
            embeddings: [V, H], the embedding output of each token alone.
        """
        known = embeddings[ids].astype(np.float64)  # [N, H]
        origin, self._centre = known.mean(axis=0), clean.mean(axis=0)
        offsets = known - origin
        slopes = np.linalg.solve(_shrunk(offsets.T @ offsets), offsets.T @ (clean - self._centre))  # [H, W]
        residual = sent - self._centre - offsets @ slopes
        precision = np.linalg.inv(_shrunk(residual.T @ residual / len(sent)))  # [W, W]
        means = (embeddings - origin) @ slopes  # [V, W]
        directions = means @ precision  # [V, W]
        counts = np.bincount(ids, minlength=len(embeddings)) + _PSEUDO_COUNT
        self._directions = directions.T.astype(np.float32)
        self._offsets = (np.log(counts / counts.sum()) - (means * directions).sum(axis=1) / 2).astype(np.float32)

    def ranks(self, states: Floats, ids: Indices) -> NDArray[np.intp]:
        """Count for each state [N, W] the tokens that seem likelier than the true one; 0 is a token recovered."""
        starts = range(0, len(ids), _CHUNK)
        return np.concatenate([self._ranks(states[at : at + _CHUNK], ids[at : at + _CHUNK]) for at in starts])

    def _ranks(self, states: Floats, ids: Indices) -> NDArray[np.intp]:
        likelihoods = (states - self._centre) @ self._directions + self._offsets  # [N, V]
        true = np.take_along_axis(likelihoods, ids[:, None], axis=1)  # [N, 1]
        better: NDArray[np.intp] = np.count_nonzero(likelihoods > true, axis=1)
        return better


def _shrunk(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make a covariance [W, W] sure to be invertible."""
    width = len(covariance)
    ridge = _SHRINKAGE * float(np.trace(covariance)) / width + 1e-12
    shrunk: NDArray[np.float64] = covariance + ridge * np.eye(width)
    return shrunk
