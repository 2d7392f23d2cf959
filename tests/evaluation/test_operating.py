"""Budgets become operating points, promises are kept on data never seen, and refusals name what is feasible."""

import numpy as np
import pytest
from synthetic import make_trace

from common.errors import ConfigError
from common.evaluation import budgets
from common.evaluation.operating import Budget, Desk
from common.evaluation.profile import LinkProfile, Profile, TierProfile
from common.evaluation.scoring import Setting
from common.evaluation.simulation import routes_of, simulate
from common.evaluation.table import fit_table
from common.types import Depths

DEPTHS = Depths(device=2, edge=4, cloud=6)
SETTING = Setting(depths=DEPTHS, resamples=100)
PROFILE = Profile(
    device=TierProfile(layer_ms=10),
    edge=TierProfile(layer_ms=2),
    cloud=TierProfile(layer_ms=1),
    device_edge=LinkProfile(latency_ms=5),
    edge_cloud=LinkProfile(latency_ms=20),
    device_cloud=LinkProfile(latency_ms=22),
)


def test_promised_drop_is_kept_on_unseen_samples() -> None:
    population = make_trace(20_000, seed=5)
    kept = 0
    for seed in range(10):
        rows = np.random.default_rng(seed).permutation(20_000)[:1500]
        promise = Desk(population.select(rows), SETTING).choose(Budget(max_drop=0.02))
        routes = simulate(promise.policy, population, DEPTHS)
        right = population.predictions()[-1] == population.labels
        kept += bool(right.mean() - (routes.predictions == population.labels).mean() <= 0.02)

    assert kept >= 8


def test_refusal_names_the_nearest_feasible_drop_and_the_samples_needed() -> None:
    desk = Desk(make_trace(300), SETTING)

    with pytest.raises(ConfigError, match=r"nearest that can is --max-drop [0-9.]+, which saves .* samples"):
        desk.choose(Budget(max_drop=0.001))


def test_refusal_names_the_nearest_feasible_limits() -> None:
    desk = Desk(make_trace(300), SETTING, profile=PROFILE)

    with pytest.raises(ConfigError, match=r"--max-latency p95=[0-9.]+ms"):
        desk.choose(Budget(max_latency_ms=1.0))
    with pytest.raises(ConfigError, match="needs --profile"):
        Desk(make_trace(300), SETTING).choose(Budget(max_latency_ms=1.0))


def test_limits_are_met_with_the_least_drop() -> None:
    desk = Desk(make_trace(800), SETTING, profile=PROFILE)

    tight = desk.choose(Budget(max_cloud=0.02)).expected
    loose = desk.choose(Budget(max_cloud=0.4)).expected

    assert tight.cloud_share <= 0.02
    assert loose.drop_points <= tight.drop_points
    assert desk.choose(Budget(max_bytes=200.0)).expected.payload_bytes_per_request <= 200


def test_latency_worked_by_hand() -> None:
    trace = make_trace(3)
    routes = routes_of(trace, np.array([0, 0, 2]), np.array([1, 5, 5]))

    # device 2·10; then edge 5 + 2·2 and cloud 20 + 2·1; offload 22 + 6·1; fast links carry the bytes in microseconds
    np.testing.assert_allclose(PROFILE.latency_ms(routes, trace, DEPTHS), [20, 51, 28], atol=0.1)


def test_fitted_table_has_every_deployable_policy() -> None:
    table = fit_table(make_trace(600), SETTING)

    assert set(table.policies) == {
        "cloud-only",
        "edge-only",
        "device-only",
        "random",
        "dimee-pure",
        "dimee",
        "confidence-cascade",
        "entropy-cascade",
        "patience",
        "learned-router",
    }
    assert table.default in table.policies


def test_budgets_are_read_as_people_write_them() -> None:
    assert budgets.share("--max-cloud", "10%") == pytest.approx(0.1)
    assert budgets.bytes_per_request("--max-bytes", "4kB", None) == 4000
    assert budgets.bytes_per_request("--max-bytes", "2MB/h", "500/h") == pytest.approx(4000)
    assert budgets.latency("--max-latency", "p95=150ms") == (0.95, 150.0)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: budgets.share("--max-cloud", "140%"), "from 0 to 100%"),
        (lambda: budgets.share("--max-cloud", "much"), "is no number"),
        (lambda: budgets.bytes_per_request("--max-bytes", "2MB/h", None), "--rate"),
        (lambda: budgets.bytes_per_request("--max-bytes", "2 parsecs", None), "4kB"),
        (lambda: budgets.requests_per_second("--rate", "0/h"), "500/h"),
        (lambda: budgets.latency("--max-latency", "150"), "p95=150ms"),
    ],
)
def test_unreadable_budgets_say_how_to_write_them(read: object, message: str) -> None:
    assert callable(read)
    with pytest.raises(ConfigError, match=message):
        read()
