"""Policies decide as their papers say, and survive a bundle."""

import msgspec
import numpy as np
import pytest

from common.routing.arrays import Array
from common.routing.entry import Dimee, Fixed, RandomEntry
from common.routing.evidence import EntryEvidence, ExitEvidence, entropy
from common.routing.exits import ConfidenceCascade, EntropyCascade, Patience
from common.routing.policies import RoutingTable
from common.routing.router import LearnedRouter, RouterHead, exit_features
from common.types import Tier


def seen(layer: int, probabilities: list[list[float]], *, earlier: list[list[int]] | None = None) -> ExitEvidence:
    batch = len(probabilities)
    return ExitEvidence(
        layer=layer,
        probabilities=np.array(probabilities, np.float32),
        pooled=np.zeros((batch, 2), np.float32),
        earlier=np.array(earlier if earlier is not None else [[]] * batch, np.intp).reshape(batch, -1),
    )


def arriving(features: list[list[float]]) -> EntryEvidence:
    return EntryEvidence(features=np.array(features, np.float32), num_tokens=np.full(len(features), 5))


def linear_head(weights: list[float], bias: float = 0.0) -> RouterHead:
    width = len(weights)
    return RouterHead(
        projection=Array.of(np.zeros((2, 0), np.float32)),
        shift=Array.of(np.zeros(width)),
        weights=Array.of(np.array(weights)),
        bias=bias,
    )


def test_confidence_cascade_answers_from_its_threshold_on() -> None:
    policy = ConfidenceCascade(thresholds={2: 0.9})

    assert policy.should_exit(seen(2, [[0.9, 0.1], [0.89, 0.11]])).tolist() == [True, False]
    assert policy.should_exit(seen(4, [[0.99, 0.01]])).tolist() == [False]
    assert policy.threshold_at(2) == 0.9


def test_entropy_of_probabilities_worked_by_hand() -> None:
    # -(0.9 ln 0.9 + 0.1 ln 0.1) = 0.0948 + 0.2303 = 0.3251; -(0.5 ln 0.5)*2 = ln 2 = 0.6931
    np.testing.assert_allclose(
        entropy(np.array([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0]], np.float32)), [0.32508, 0.69315, 0.0], atol=1e-5
    )


def test_entropy_cascade_worked_by_hand() -> None:
    policy = EntropyCascade(thresholds={2: 0.33, 4: 0.7})

    assert policy.should_exit(seen(2, [[0.9, 0.1], [0.89, 0.11], [0.5, 0.5]])).tolist() == [True, False, False]
    assert policy.should_exit(seen(4, [[0.5, 0.5]])).tolist() == [True]
    assert policy.should_exit(seen(5, [[1.0, 0.0]])).tolist() == [False]


def test_patience_worked_by_hand() -> None:
    """PABEE, patience 2: three like predictions in a row end it; the counter starts again at a change of mind."""
    policy = Patience(patience=2)
    predictions = {"a": [1, 1, 1, 0, 1, 0], "b": [0, 1, 1, 1, 1, 1], "c": [0, 1, 0, 1, 1, 1]}
    exits_at = {}

    for name, sequence in predictions.items():
        for layer, now in enumerate(sequence, start=1):
            probabilities = [[1.0 - now, float(now)]]
            if policy.should_exit(seen(layer, probabilities, earlier=[sequence[: layer - 1]])).item():
                exits_at[name] = layer
                break

    assert exits_at == {"a": 3, "b": 4, "c": 6}


def test_patience_does_not_count_exits_that_did_not_run() -> None:
    assert Patience(patience=2).should_exit(seen(3, [[0.0, 1.0]], earlier=[[-1, 1]])).tolist() == [False]
    assert Patience(patience=0).should_exit(seen(1, [[0.0, 1.0]])).tolist() == [True]


def test_random_entry_keeps_its_shares_and_repeats_itself() -> None:
    features = np.random.default_rng(0).normal(size=(6000, 20)).astype(np.float32)
    evidence = EntryEvidence(features=features, num_tokens=np.full(6000, 9))
    policy = RandomEntry(shares=(0.5, 0.3, 0.2), seed=3)

    tiers = policy.enter(evidence).tiers
    alone = policy.enter(EntryEvidence(features=features[7:8] + 1e-6, num_tokens=np.array([9]))).tiers

    np.testing.assert_allclose(np.bincount(tiers) / 6000, [0.5, 0.3, 0.2], atol=0.025)
    assert alone.tolist() == [tiers[7]]
    assert (RandomEntry(shares=(0.5, 0.3, 0.2), seed=4).enter(evidence).tiers != tiers).mean() > 0.3


def test_random_entry_refuses_shares_that_do_not_sum_to_one() -> None:
    with pytest.raises(ValueError, match="must sum to 1"):
        RandomEntry(shares=(0.5, 0.3, 0.3))


def test_dimee_enters_by_the_nearest_centroid_and_priors_shift_it() -> None:
    centroids = ((0.0, 0.0), (4.0, 0.0), (0.0, 4.0))
    evidence = arriving([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])

    entries = Dimee(centroids=centroids, thresholds={}, has_fallback=False).enter(evidence)
    shifted = Dimee(centroids=centroids, thresholds={}, has_fallback=False, offsets=(10.0, 0.0, 0.0)).enter(evidence)

    assert entries.tiers.tolist() == [0, 1, 2]
    assert shifted.tiers.tolist() == [1, 1, 2]
    assert entries.distances is not None
    np.testing.assert_allclose(entries.distances[0], [1, 3, 17**0.5], rtol=1e-6)


def test_pure_dimee_answers_at_its_tiers_end_only() -> None:
    policy = Dimee(centroids=((0.0,), (1.0,), (2.0,)), thresholds={2: 0.5}, has_fallback=False)
    evidence = seen(2, [[0.9, 0.1]])

    assert policy.should_exit(evidence).tolist() == [True]
    inside = ExitEvidence(
        layer=2,
        probabilities=evidence.probabilities,
        pooled=evidence.pooled,
        earlier=evidence.earlier,
        is_tier_end=False,
    )
    assert policy.should_exit(inside).tolist() == [False]


def test_learned_router_answers_where_asking_deeper_hardly_pays() -> None:
    # features of two labels: entropy, gap, log-odds, class 1, its log-odds; the head looks at the gap alone
    head = linear_head([0.0, -10.0, 0.0, 0.0, 0.0], bias=5.0)  # gap 0.8 gives sigmoid(-3) = 0.047; gap 0.2 gives 0.953
    policy = LearnedRouter(heads={2: head}, thresholds={2: 0.1})

    assert policy.should_exit(seen(2, [[0.9, 0.1], [0.4, 0.6]])).tolist() == [True, False]
    assert policy.should_exit(seen(4, [[0.9, 0.1]])).tolist() == [False]
    assert policy.enter(arriving([[0.0, 0.0]])).tiers.tolist() == [0]


def test_learned_router_offloads_what_the_device_will_not_answer() -> None:
    head = linear_head([1.0], bias=-float(np.log(5.0)))  # log length: sigmoid(log(length / 5))
    policy = LearnedRouter(heads={}, thresholds={}, entry=head, max_entry_score=0.6)
    evidence = EntryEvidence(features=np.zeros((2, 2), np.float32), num_tokens=np.array([5, 50]))

    assert policy.enter(evidence).tiers.tolist() == [0, 1]


def test_routing_table_survives_json() -> None:
    table = RoutingTable(
        default="router",
        policies={
            "cloud-only": Fixed(tier=Tier.CLOUD, layer=6),
            "random": RandomEntry(shares=(0.5, 0.25, 0.25)),
            "entropy-cascade": EntropyCascade(thresholds={2: 0.3}),
            "patience": Patience(patience=1),
            "dimee": Dimee(centroids=((0.0,), (1.0,), (2.0,)), thresholds={2: 0.5}, has_fallback=True),
            "router": LearnedRouter(heads={2: linear_head([1.0, 2.0, 3.0, 4.0, 5.0])}, thresholds={2: 0.1}),
        },
    )

    assert msgspec.json.decode(msgspec.json.encode(table), type=RoutingTable) == table


def test_array_refuses_bytes_that_do_not_fill_it() -> None:
    with pytest.raises(ValueError, match="needs 16 bytes"):
        Array((2, 2), b"1234")


def test_router_features_worked_by_hand() -> None:
    evidence = ExitEvidence(
        layer=3,
        probabilities=np.array([[0.2, 0.8]], np.float32),
        pooled=np.array([[1.0, 2.0]], np.float32),
        earlier=np.array([[1, 0, -1]]),
        earlier_confidences=np.array([[0.75, 0.9, 0.0]], np.float32),
    )

    features = exit_features(evidence, np.array([[1.0], [10.0]], np.float32))

    # entropy, gap, ln(0.8/0.2), class 1, odds if class 1, +ln 3 (agreed), -ln 9 (did not), none ran, state
    expected = [[0.5004, 0.6, 1.3863, 1.0, 1.3863, 1.0986, -2.1972, 0.0, 21.0]]
    np.testing.assert_allclose(features, expected, atol=1e-3)
