"""Nodes of a site with certificates, as processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.transport.contract import Inbox
from common.types import Tier
from common.wire.documents import decode_status

LIMIT_S = 60.0


def start(
    site: Any, extra: dict[str, str], folder: Path, tier: Tier, *command: str, channel: str = "sealed"
) -> "subprocess.Popen[bytes]":
    """Start a node with certificates; a device reads its standard input."""
    node = "pi-1" if tier is Tier.DEVICE else f"{tier}-1"
    own = site.authority.folder / "nodes" / node
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DIMEE_")},
        **extra,
        "DIMEE_NODE__ID": node,
        "DIMEE_MODEL__RELEASE_FILE": str(folder / f"{node}.release"),
        "DIMEE_MQTT__PORT": str(site.broker.port),
        "DIMEE_MQTT__TLS_CA_FILE": str(own / "ca.pem"),
        "DIMEE_MQTT__TLS_CERTIFICATE_FILE": str(own / "certificate.pem"),
        "DIMEE_MQTT__TLS_KEY_FILE": str(own / "key.pem"),
        "DIMEE_CHANNEL__NAME": channel,
    }
    match tier:
        case Tier.DEVICE:
            environment["DIMEE_DEVICE__NEEDS_SIGNATURES"] = "true"
            environment.setdefault("DIMEE_DEVICE__BUDGET_MS", "20000")
        case Tier.EDGE:
            environment["DIMEE_LOG__URL"] = f"sqlite:///{folder}/log.sqlite"
    if tier is not Tier.DEVICE and channel == "sealed":
        environment["DIMEE_CHANNEL__TIER_KEY_FOLDER"] = str(site.authority.folder / "tiers" / tier)
    return subprocess.Popen(
        [sys.executable, "-m", "common.cli", *command], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def wait_online(statuses: Inbox, missing: set[str], *, is_sealed: bool = True) -> None:
    """Wait for the retained statuses of nodes."""
    while missing:
        delivery = statuses.get(LIMIT_S)
        assert delivery is not None, f"{missing} did not come online"
        status = decode_status(delivery.payload)
        if status.state == "online":
            assert bool(status.tier_key) is is_sealed, "a sealed tier announces its key"
            missing.discard(status.node)
