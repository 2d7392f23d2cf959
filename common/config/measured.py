"""What ``dimee bench profile`` measured on this machine: settings that count where file and environment are silent."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from common.config.header import SETTINGS
from common.config.settings import AtLeastOne, DeviceSettings, Section
from common.errors import ConfigError

Tables = dict[str, dict[str, Any]]


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a profile may set of a tier."""

    bundle: str  # as in model.bundle: the quickest of those that were measured
    threads: AtLeastOne  # of a segment
    codec: str  # of what leaves this tier


def measured_settings(kind: type[Section], given: Tables) -> Tables:
    """Read a tier's settings from the profile that ``model.profile_file`` names; none where it names no file.

    Raises:
        ConfigError: The file is missing, no TOML, or has nothing for this tier.
    """
    location = given["model"].get("profile_file")
    if location is None:
        return {}
    tier = next(tier for tier, settings in SETTINGS.items() if settings is kind)
    try:
        profile = tomllib.loads(Path(location).expanduser().read_text(encoding="utf-8"))
        found = msgspec.convert(profile[tier]["settings"], Measured)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, msgspec.ValidationError) as exc:
        raise ConfigError(
            f"model.profile_file {location!r} has no [{tier}.settings] to read ({type(exc).__name__}: {exc}); "
            "make it with 'dimee bench profile --out'"
        ) from exc
    sender = "device" if kind is DeviceSettings else "worker"
    return {"model": {"bundle": found.bundle, "threads": found.threads}, sender: {"codec": found.codec}}
