"""Who may speak and listen on which topic, as an access list for Mosquitto (``acl_file``).

Devices are matched by pattern, so a new device needs no new list; whoever may do more stands in it by name.
"""

from collections.abc import Iterable, Iterator

from common.certificates.names import Role
from common.errors import ConfigError
from common.types import Tier

_HEADER = """\
# Access by certificate name (Mosquitto: use_identity_as_username). What is not allowed here is refused.
# Made by 'dimee certs acl'; run it again when an edge, a cloud worker or an application is added.
"""


def access_list(site: str, nodes: Iterable[tuple[str, Role]]) -> str:
    """Write the access list of a site.

    Args:
        site: The site's level of every topic.
        nodes: Name and role of every node with a valid certificate; devices need not be among them.

    Raises:
        ConfigError: The site's name would change the meaning of a line.
    """
    if not site or set(site) & set("+#/% \t\r\n\0"):
        raise ConfigError(f"site {site!r} cannot stand in an access list: no blanks and none of + # / %")
    blocks = [_HEADER, "# every device: its own topics, and requests and records that only tiers read\n"]
    blocks.append("".join(f"pattern {line}\n" for line in _device(site)))
    for name, role in sorted(set(nodes)):
        lines = "".join(f"topic {line}\n" for line in _lines(site, name, role))
        if lines:
            blocks.append(f"\nuser {name}\n{lines}")
    return "".join(blocks)


def _device(site: str) -> Iterator[str]:
    root = f"dimee/v1/{site}"
    yield f"write {root}/edge/request"
    yield f"write {root}/cloud/request"
    yield f"write {root}/log"
    yield f"write {root}/status/device/%u"
    yield f"write {root}/status/device/%u/claim"
    yield f"write {root}/status/device/%u/figures"
    yield f"write homeassistant/device/dimee-{site}-device/%u/config"
    yield f"write {root}/device/%u/answer"
    yield f"read {root}/device/%u/outcome"
    yield f"read {root}/device/%u/input"
    yield f"read {root}/status/#"
    yield f"read {root}/model/#"
    yield f"read {root}/link"
    yield "read homeassistant/status"


def _lines(site: str, name: str, role: Role) -> Iterator[str]:
    root = f"dimee/v1/{site}"
    match role:
        case Role.EDGE | Role.CLOUD:
            yield f"read {root}/{role}/request"
            yield f"write {root}/device/+/outcome"
            yield f"write {root}/status/{role}/{name}"
            yield f"write {root}/status/{role}/{name}/claim"
            yield f"write {root}/status/{role}/{name}/figures"
            yield f"write homeassistant/device/dimee-{site}-{role}/{name}/config"
            if role is Role.EDGE:
                yield f"read {root}/log"
        case Role.APPLICATION:
            yield f"write {root}/device/+/input"
            yield f"read {root}/device/+/answer"
        case Role.OPERATOR:
            yield f"write {root}/model/#"
            yield f"write {root}/link"
            yield f"write {root}/status/+/+/figures"
            yield from (f"write homeassistant/device/dimee-{site}-{tier}/+/config" for tier in Tier)
        case Role.BRIDGE:
            yield f"read {root}/device/+/outcome"
            yield f"write {root}/model/#"
            yield f"write {root}/status/device/+"
            yield f"write {root}/status/edge/+"
        case Role.HOME_ASSISTANT:
            yield "read homeassistant/#"
            yield "write homeassistant/status"
            yield f"write {root}/model/operating-point"
        case Role.DEVICE | Role.BROKER | Role.SEAL:
            return
