"""Fitted on the kept-back split: temperatures, pools, centroids."""

import numpy as np
import pytest

from common.errors import ConfigError
from common.routing.evidence import EntryEvidence, softmax
from common.routing.fitting import (
    fit_cartography_pools,
    fit_centroids,
    fit_dimee,
    fit_pools,
    fit_priors,
    fit_temperature,
)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_temperature_that_made_the_labels_is_found_again(true_temperature: float) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 3)).astype(np.float32) * 3
    probabilities = softmax(logits, true_temperature)
    labels = (probabilities.cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1).clip(0, 2)

    assert fit_temperature(logits, labels) == pytest.approx(true_temperature, rel=0.05)


def test_temperature_stays_within_bounds_where_every_answer_is_right() -> None:
    logits = np.array([[5.0, 0.0], [0.0, 5.0]], np.float32)

    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(0.05, abs=1e-3)
    with pytest.raises(ConfigError, match="at least one"):
        fit_temperature(logits[:0], np.array([], np.int64))


def test_pools_worked_by_hand() -> None:
    at_device = np.array([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.6, 0.4]], np.float32)
    at_edge = np.array([[0.5, 0.5], [0.05, 0.95], [0.9, 0.1], [0.7, 0.3]], np.float32)

    pools = fit_pools((at_device, at_edge), np.array([0, 1, 0, 0]), alpha=0.9)

    assert pools.tolist() == [0, 1, 1, 2]  # sure and right; sure and wrong, then right; unsure, then sure; never sure


def test_cartography_pools_worked_by_hand() -> None:
    at_device = np.array([[0.9, 0.1, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1]], np.float32)
    at_edge = np.array([[0.9, 0.9, 0.1, 0.2], [0.9, 0.9, 0.9, 0.2]], np.float32)

    assert fit_cartography_pools(at_device, at_edge, easy=0.8, variable=0.3).tolist() == [0, 1, 1, 2]


def test_centroids_are_the_pools_means_and_an_empty_pool_is_never_named() -> None:
    features = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]], np.float32)

    centroids, offsets = fit_centroids(features, np.array([0, 0, 2]))
    policy = fit_dimee(features, np.array([0, 0, 2]), {}, has_fallback=False)
    overall = EntryEvidence(features=np.array([centroids[1]], np.float32), num_tokens=np.array([4]))

    assert centroids[0] == (1.0, 0.0)
    assert centroids[2] == (0.0, 4.0)
    assert offsets[1] > 1e6
    assert policy.enter(overall).pools != [1]


def test_priors_favour_the_larger_pool() -> None:
    random = np.random.default_rng(1)
    pools = np.array([0] * 900 + [1] * 80 + [2] * 20)
    features = random.normal(size=(1000, 8)).astype(np.float32) + pools[:, None] * 0.5
    centroids, _ = fit_centroids(features, pools)

    easy, moderate, hard = fit_priors(features, pools, centroids)

    assert easy < moderate < hard
    assert easy == pytest.approx(-2 * 1.0 * np.log(0.9), rel=0.1)
