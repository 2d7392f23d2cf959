"""What stands above the first section of a file: its schema version and the tier that it is for."""

from typing import Annotated

import msgspec

from common.config.migration import SCHEMA
from common.config.settings import AnySettings, CloudSettings, DeviceSettings, EdgeSettings
from common.errors import ConfigError
from common.types import Tier

SETTINGS: dict[Tier, type[AnySettings]] = {
    Tier.DEVICE: DeviceSettings,
    Tier.EDGE: EdgeSettings,
    Tier.CLOUD: CloudSettings,
}


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Optional, so that a hand-written file may begin with its first section."""

    schema: Annotated[int, msgspec.Meta(ge=1)] = SCHEMA
    tier: Tier | None = None


def read_header(fields: dict[str, object], source: str) -> Header:
    """Understand the keys that stand outside of any section.

    Raises:
        ConfigError: There are others than ``schema`` and ``tier``, or this release does not know their value.
    """
    strays = fields.keys() - set(Header.__struct_fields__)
    if strays:
        raise ConfigError(f"{source}: {min(strays)!r} stands outside a [section]")
    try:
        header = msgspec.convert(fields, Header)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{source}: {exc}") from exc
    if header.schema > SCHEMA:
        raise ConfigError(
            f"{source}: schema {header.schema} is of a newer release, this one knows up to {SCHEMA}; "
            "upgrade dimee here, or write the file anew with 'dimee init'"
        )
    return header
