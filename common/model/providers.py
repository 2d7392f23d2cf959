"""onnxruntime's execution providers: of those that are wanted, the ones that are to be had here."""

import difflib
import functools
import logging

import onnxruntime as ort

from common.errors import ConfigError

PROCESSOR = "CPUExecutionProvider"
Providers = tuple[str, ...]  # best first
_LOGGER = logging.getLogger(__name__)


def missing(wanted: Providers) -> Providers:
    """Name those of ``wanted`` without which this onnxruntime was built.

    Raises:
        ConfigError: No onnxruntime has a provider of such a name.
    """
    known, here = ort.get_all_providers(), ort.get_available_providers()
    for name in wanted:
        if name not in known:
            by_lower = {each.lower(): each for each in known}
            nearest = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
            hint = f"did you mean {by_lower[nearest[0]]!r}? " if nearest else ""
            raise ConfigError(f"model.providers: {name!r} is not one; {hint}known are {', '.join(known)}")
    return tuple(name for name in wanted if name not in here)


@functools.cache
def usable(wanted: Providers) -> Providers:
    """Give those of ``wanted`` that are here, the processor last; of others warn, once.

    Raises:
        ConfigError: No onnxruntime has a provider of such a name.
    """
    if lacking := missing(wanted):
        _warn(", ".join(lacking), "not in", ", ".join(ort.get_available_providers()))
    return tuple(dict.fromkeys([*(name for name in wanted if name not in lacking), PROCESSOR]))


@functools.cache
def check_started(asked: Providers, found: Providers) -> None:
    """Warn, once, when a session runs without the first provider it was asked for, as where a driver is missing."""
    if asked[0] not in found:
        _warn(asked[0], "did not start in", ", ".join(found))


def _warn(names: str, why: str, available: str) -> None:
    _LOGGER.warning("model.providers: %s: %s onnxruntime %s; available: %s", names, why, ort.__version__, available)
