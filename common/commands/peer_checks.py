"""Checks of what nodes say of themselves: an update that is under way, and peers that are alive and fit."""

from collections.abc import Iterator

from common.commands.finding import Finding, failed, ok, warning
from common.types import TIERS, NodeStatus, Tier


def check_update(own: NodeStatus | None) -> Iterator[Finding]:
    """Tell how an update of this node stands, if there is one."""
    if own is None or own.state != "online" or not own.update:
        return
    if own.update.startswith(("refused", "stuck")):
        remedy = "read the node's log; publish a sound bundle, or take this one back: dimee model rollback"
        yield warning("update", own.update, remedy)
    else:
        yield ok("update", own.update)


def check_peers(tier: Tier, peers: list[NodeStatus], serves: tuple[str, ...]) -> Iterator[Finding]:
    """Judge the retained statuses of all other nodes; ``serves`` are the revisions of this one, if they are known."""
    for status in sorted(filter(_is_lasting, peers), key=lambda status: (TIERS.index(status.tier), status.node)):
        yield _check_peer(tier, status, serves)
    for needed in _NEEDED[tier]:
        if not any(is_online(status, needed) for status in peers):
            remedy = f"start one with 'dimee {needed} run'; until then this {tier} answers what it can alone"
            yield failed("peers", f"no {needed} is online at this site", remedy)


def _is_lasting(status: NodeStatus) -> bool:
    """Tell a node from a single question, which stops as soon as it is answered."""
    return not (status.node.endswith("-ask") and status.state == "stopped")


_NEEDED = {Tier.DEVICE: (Tier.EDGE, Tier.CLOUD), Tier.EDGE: (Tier.CLOUD,), Tier.CLOUD: ()}


def _check_peer(tier: Tier, status: NodeStatus, serves: tuple[str, ...]) -> Finding:
    check, name = "peer", f"{status.tier} {status.node!r}"
    match status.state:
        case "offline":
            topic = f"dimee/v1/SITE/status/{status.tier}/{status.node}"
            remedy = f"look at its power, network and log; if it is gone for good: mosquitto_pub -r -n -t {topic}"
            return failed(check, f"{name} vanished without a word", remedy)
        case "stopped":
            return warning(check, f"{name} was stopped", f"start it again, if it should run: dimee {status.tier} run")
    are_devices = tier is status.tier is Tier.DEVICE  # which never talk to each other
    if serves and not are_devices and serves[0] not in status.served and status.model_revision not in serves:
        said = f"{name} serves revision {', '.join(status.served)}, this node {', '.join(serves)}"
        return failed(check, said, "give both the same bundle (model.bundle) and restart the one that was changed")
    update = f"; {status.update}" if status.update else ""
    return ok(check, f"{name} is online, revision {', '.join(status.served)}{update}")


def is_online(status: NodeStatus, tier: Tier) -> bool:
    """Whether a status is that of a node of a tier which is there."""
    return status.tier is tier and status.state == "online"
