"""Budgets as people write them: points of accuracy, shares, bytes per hour, milliseconds at a quantile."""

import re

from common.errors import ConfigError

_UNITS = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = re.compile(r"(?P<amount>[0-9.]+)\s*(?P<unit>[kKMG]?B)(?:/(?P<per>s|min|h|d|request))?")
_RATE = re.compile(r"(?P<amount>[0-9.]+)\s*/(?P<per>s|min|h|d)")
_LATENCY = re.compile(r"p(?P<quantile>[0-9]{1,2}(\.[0-9]+)?)=(?P<amount>[0-9.]+)\s*ms")


def share(option: str, written: str) -> float:
    """Read ``10%`` or ``0.1`` as a share 0..1.

    Raises:
        ConfigError: It is neither.
    """
    amount = _number(option, written.removesuffix("%"), "10% or 0.1")
    value = amount / 100 if written.endswith("%") else amount
    if not 0 <= value <= 1:
        raise ConfigError(f"{option} {written}: must be from 0 to 100%")
    return value


def bytes_per_request(option: str, written: str, rate: str | None) -> float:
    """Read ``4kB``, or ``2MB/h`` together with a rate such as ``500/h``, as bytes per request.

    Raises:
        ConfigError: It is neither, or the rate is missing.
    """
    found = _BYTES.fullmatch(written)
    if found is None:
        raise ConfigError(f"{option} {written!r}: write 4kB (per request) or 2MB/h (with --rate 500/h)")
    amount = _number(option, found["amount"], "2MB/h") * _UNITS[found["unit"]]
    if found["per"] in {None, "request"}:
        return amount
    if rate is None:
        raise ConfigError(f"{option} {written}: bytes over time need to know how many requests come; add --rate 500/h")
    return amount / _SECONDS[found["per"]] / requests_per_second("--rate", rate)


def requests_per_second(option: str, written: str) -> float:
    """Read ``500/h``.

    Raises:
        ConfigError: It is no rate above zero.
    """
    found = _RATE.fullmatch(written)
    value = _number(option, found["amount"], "500/h") / _SECONDS[found["per"]] if found else 0.0
    if value <= 0:
        raise ConfigError(f"{option} {written!r}: write requests per time, e.g. 500/h")
    return value


def latency(option: str, written: str) -> tuple[float, float]:
    """Read ``p95=150ms`` as a quantile 0..1 and milliseconds.

    Raises:
        ConfigError: It is something else.
    """
    found = _LATENCY.fullmatch(written)
    if found is None:
        raise ConfigError(f"{option} {written!r}: write a percentile and milliseconds, e.g. p95=150ms")
    return float(found["quantile"]) / 100, _number(option, found["amount"], "p95=150ms")


def _number(option: str, written: str, example: str) -> float:
    try:
        return float(written)
    except ValueError as exc:
        raise ConfigError(f"{option} {written!r} is no number; write it like {example}") from exc
