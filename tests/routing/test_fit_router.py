"""Router heads learn what pays, and nothing from noise."""

import numpy as np
import pytest

from common.routing.evidence import EntryEvidence, ExitEvidence
from common.routing.fit_router import fit_entry_head, fit_exit_head, fit_logistic, proxy_labels
from common.routing.router import entry_features, exit_features


def test_logistic_regression_finds_the_weights_that_made_the_labels() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(20_000, 2))
    targets = (random.random(20_000) < 1 / (1 + np.exp(-(1.5 * features[:, 0] - 0.5 * features[:, 1] - 1)))) * 1.0

    found = fit_logistic(features, targets, ridge=1e-6)

    np.testing.assert_allclose(found.weights / np.r_[found.scale, 1], [1.5, -0.5, -1], atol=0.1)


def test_proxy_label_asks_only_where_deeper_is_right_and_here_is_wrong() -> None:
    here, deeper = np.array([True, True, False, False]), np.array([True, False, True, False])

    assert proxy_labels(here, deeper).tolist() == [0, 0, 1, 0]


def test_exit_head_scores_unsure_inputs_higher() -> None:
    random = np.random.default_rng(1)
    top = random.uniform(0.5, 1, 3000).astype(np.float32)
    evidence = ExitEvidence(
        layer=2,
        probabilities=np.stack([top, 1 - top], axis=1),
        pooled=random.normal(size=(3000, 16)).astype(np.float32),
        earlier=np.zeros((3000, 0), np.intp),
    )
    pays = (random.random(3000) < (1 - top)) * 1.0

    head = fit_exit_head(evidence, pays)
    scores = head.score(exit_features(evidence, head.projection.values))

    assert scores[top > 0.95].mean() == pytest.approx(0.025, abs=0.02)
    assert scores[top < 0.6].mean() == pytest.approx(0.45, abs=0.06)


def test_entry_head_uses_the_direction_that_matters() -> None:
    random = np.random.default_rng(2)
    features = random.normal(size=(2000, 20)).astype(np.float32) * np.r_[3.0, np.ones(19)].astype(np.float32)
    evidence = EntryEvidence(features=features, num_tokens=np.full(2000, 9))
    leaves = (features[:, 0] + random.normal(size=2000) > 0) * 1.0

    head = fit_entry_head(evidence, leaves)
    scores = head.score(entry_features(evidence, head.projection.values))

    assert ((scores > 0.5) == (leaves > 0.5)).mean() > 0.85
