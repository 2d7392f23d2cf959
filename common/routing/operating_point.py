"""Operating points: which policy of a bundle is in effect, and from what confidence on its exits answer.

One is published, retained, for a whole site, so that a budget changes at run time without retraining or restart.
"""

import msgspec

from common.errors import ModelMismatchError, WireError
from common.routing.policies import AnyPolicy, RoutingTable


class OperatingPoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy by its name in the routing table of one revision, and thresholds in the place of its own."""

    revision: str
    policy: str
    thresholds: dict[int, float] | None = None  # by exit layer, in the policy's unit; None keeps its own


def decode_point(payload: bytes) -> OperatingPoint:
    """Read an operating point.

    Raises:
        WireError: It is none.
    """
    try:
        return msgspec.json.decode(payload, type=OperatingPoint)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise WireError(f"operating point refused: {exc}") from exc


def encode_point(point: OperatingPoint) -> bytes:
    """Pack an operating point."""
    return msgspec.json.encode(point)


def policy_of(point: OperatingPoint, table: RoutingTable, revision: str, exits: tuple[int, ...]) -> AnyPolicy:
    """Give the policy that an operating point puts into effect.

    Args:
        point: What was asked for.
        table: Policies of the bundle that runs.
        revision: Of that bundle.
        exits: Its exit layers.

    Raises:
        ModelMismatchError: The point is for another revision.
        WireError: The bundle has no such policy, or it takes no such thresholds.
    """
    if point.revision != revision:
        raise ModelMismatchError(f"operating point for revision {point.revision}; this node runs {revision}")
    policy = table.policies.get(point.policy)
    if policy is None:
        raise WireError(f"operating point names policy {point.policy!r}; the bundle has {sorted(table.policies)}")
    if point.thresholds is None:
        return policy
    if "thresholds" not in policy.__struct_fields__:
        raise WireError(f"operating point: policy {point.policy!r} has no thresholds to set")
    beyond = sorted(set(point.thresholds) - set(exits[:-1]))
    if beyond:
        raise WireError(f"operating point: no choice is made after layer {beyond[0]}; exits choose after {exits[:-1]}")
    fields = msgspec.to_builtins(policy, builtin_types=(bytes,)) | {"thresholds": point.thresholds}
    try:
        return msgspec.convert(fields, type=type(policy))
    except msgspec.ValidationError as exc:
        raise WireError(f"operating point for {point.policy!r}: {exc}") from exc
