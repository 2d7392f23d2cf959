"""An operating point replaces a policy's thresholds at run time, and nothing it does not fit."""

import pytest

from common.errors import ModelMismatchError, WireError
from common.routing.entry import Fixed
from common.routing.exits import ConfidenceCascade, EntropyCascade
from common.routing.operating_point import OperatingPoint, decode_point, encode_point, policy_of
from common.routing.policies import RoutingTable
from common.types import Tier

TABLE = RoutingTable(
    default="cascade",
    policies={
        "cascade": ConfidenceCascade(thresholds={2: 0.9}),
        "entropy": EntropyCascade(thresholds={2: 0.3}),
        "edge-only": Fixed(tier=Tier.EDGE, layer=4),
    },
)


def put(point: OperatingPoint) -> object:
    return policy_of(decode_point(encode_point(point)), TABLE, "abc", (2, 4, 6))


def test_thresholds_are_replaced_and_the_rest_is_kept() -> None:
    assert put(OperatingPoint(revision="abc", policy="cascade", thresholds={2: 0.8, 4: 0.7})) == ConfidenceCascade(
        thresholds={2: 0.8, 4: 0.7}
    )
    assert put(OperatingPoint(revision="abc", policy="entropy", thresholds={4: 0.1})) == EntropyCascade(
        thresholds={4: 0.1}
    )
    assert put(OperatingPoint(revision="abc", policy="edge-only")) == TABLE.policies["edge-only"]


@pytest.mark.parametrize(
    ("point", "told"),
    [
        (OperatingPoint(revision="abc", policy="oracle"), "names policy 'oracle'"),
        (OperatingPoint(revision="abc", policy="edge-only", thresholds={2: 0.5}), "no thresholds to set"),
        (OperatingPoint(revision="abc", policy="cascade", thresholds={6: 0.5}), "no choice is made after layer 6"),
        (OperatingPoint(revision="abc", policy="cascade", thresholds={2: 1.5}), "thresholds"),
    ],
)
def test_what_does_not_fit_the_bundle_is_refused(point: OperatingPoint, told: str) -> None:
    with pytest.raises(WireError, match=told):
        put(point)


def test_a_point_for_another_revision_is_refused() -> None:
    with pytest.raises(ModelMismatchError, match=r"revision xyz; this node runs abc"):
        put(OperatingPoint(revision="xyz", policy="cascade"))


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b'{"revision": "abc", "policy": "cascade", "more": 1}'])
def test_bytes_that_are_no_point_are_refused(payload: bytes) -> None:
    with pytest.raises(WireError, match="operating point refused"):
        decode_point(payload)
