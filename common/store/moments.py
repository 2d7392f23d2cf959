"""Points in time as people write them."""

import re
from datetime import datetime

from common.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment(written: str, now: float) -> float:
    """Read an ISO time (local where it names no zone) or an age such as ``2h``, as seconds since the epoch.

    Raises:
        ConfigError: It is neither.
    """
    age = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", written.strip())
    if age:
        return now - float(age[1]) * _SECONDS[age[2]]
    try:
        return datetime.fromisoformat(written.strip()).timestamp()
    except (ValueError, OverflowError, OSError) as exc:
        raise ConfigError(
            f"{written!r} is no time; write an age as 90s, 30m, 2h, 7d or 1w, or an ISO time as 2026-01-31T09:00"
        ) from exc
