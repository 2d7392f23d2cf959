"""The topics of version 1 and who speaks on them (documented in docs/wire.md)."""

from typing import Literal

import msgspec

from common.errors import ConfigError
from common.types import Tier

_RESERVED = frozenset("+#/\0")


class Topics(msgspec.Struct, frozen=True):
    """All topics of one site."""

    site: str

    def __post_init__(self) -> None:
        checked("mqtt.site", self.site)

    @property
    def log(self) -> str:
        """Finished requests, device to recorder."""
        return f"dimee/v1/{self.site}/log"

    @property
    def link(self) -> str:
        """How much adaptive devices may send, retained."""
        return f"dimee/v1/{self.site}/link"

    def training(self, way: Literal["up", "down"]) -> str:
        """Activations of split training, and what they taught."""
        return f"dimee/v1/{self.site}/training/{way}"

    def request(self, tier: Tier) -> str:
        """Hidden states for a tier's workers."""
        return f"dimee/v1/{self.site}/{tier}/request"

    def outcome(self, device_id: str) -> str:
        """Outcomes, failures and receipts for one device."""
        return f"dimee/v1/{self.site}/device/{device_id}/outcome"

    def input(self, device_id: str) -> str:
        """Texts from applications to one device."""
        return f"dimee/v1/{self.site}/device/{device_id}/input"

    def answer(self, device_id: str) -> str:
        """Answers from one device to applications."""
        return f"dimee/v1/{self.site}/device/{device_id}/answer"

    @property
    def rollout(self) -> str:
        """Which bundles the site runs, retained; only an operator writes it."""
        return f"dimee/v1/{self.site}/model/rollout"

    @property
    def operating_point(self) -> str:
        """The policy and thresholds in effect, retained; only an operator writes it."""
        return f"dimee/v1/{self.site}/model/operating-point"

    def chunk(self, revision: str, file: str, number: int | str) -> str:
        """A part of a published bundle's file, retained; counted from 0."""
        return f"dimee/v1/{self.site}/model/{revision}/{file}/{number}"

    def status(self, tier: Tier | str, node: str) -> str:
        """A node's retained status; both parts may be ``+`` to watch."""
        return f"dimee/v1/{self.site}/status/{tier}/{node}"

    def figures(self, tier: Tier | str, node: str) -> str:
        """How a node has fared lately, retained, for Home Assistant."""
        return f"{self.status(tier, node)}/figures"

    def discovery(self, tier: Tier | str, node: str) -> str:
        """What Home Assistant shows of a node, retained; outside of the site, where Home Assistant looks."""
        return f"homeassistant/device/dimee-{self.site}-{tier}/{node}/config"

    @property
    def home_assistant(self) -> str:
        """Home Assistant's birth and last will: ``online`` or ``offline``."""
        return "homeassistant/status"

    def claim(self, tier: Tier | str, node: str) -> str:
        """The token of the process that uses a node's id now, retained."""
        return claim_of(self.status(tier, node))


def claim_of(status_topic: str) -> str:
    """Give the topic on which the node of this status leaves its token."""
    return f"{status_topic}/claim"


def checked(key: str, name: str) -> str:
    """Pass a name on if it can stand as one level of a topic.

    Raises:
        ConfigError: It is empty, too long, or holds ``+``, ``#``, ``/`` or a NUL.
    """
    if not 0 < len(name) <= 64 or _RESERVED & set(name):
        raise ConfigError(f"{key}: {name!r} must have 1-64 characters and none of + # / or NUL")
    return name
