"""Read settings from a TOML file and the environment, with the origin of each value."""

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

import msgspec

from common.config.header import SETTINGS, Header, read_header
from common.config.measured import Tables, measured_settings
from common.config.migration import Migrated, migrate
from common.config.settings import Section
from common.errors import ConfigError

_LOGGER = logging.getLogger(__name__)
ENVIRONMENT_PREFIX = "DIMEE_"
SettingsT = TypeVar("SettingsT", bound=Section)


def load(kind: type[SettingsT], path: Path | None, environment: Mapping[str, str] = os.environ) -> SettingsT:
    """Read one process's settings: defaults, this machine's profile, the file, then ``DIMEE_SECTION__KEY``.

    Raises:
        ConfigError: The file is missing or no TOML, a key is unknown, or a value is of the wrong kind or range.
    """
    tables = _tables(kind, path) if path else {}
    if path and (changes := migrated(path).changes):
        _LOGGER.warning("%s: %s; 'dimee config migrate %s' rewrites it", path, "; ".join(changes), path)
    _check_keys(kind, tables, str(path))
    given = _over(kind, tables, _overrides(kind, environment))
    try:
        return msgspec.convert(_over(kind, measured_settings(kind, given), given), kind, strict=False)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{path or 'no --config'}: {_readable(exc)}") from exc


def origins(kind: type[Section], path: Path | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Tell for every ``section.key`` where its value comes from: default, profile, file or environment."""
    tables, overrides = (_tables(kind, path) if path else {}), _overrides(kind, environment)
    measured = measured_settings(kind, _over(kind, tables, overrides))
    return {
        f"{section}.{key}": _origin(section, key, {"file": tables, "profile": measured}, overrides)
        for section, keys in _known_keys(kind).items()
        for key in keys
    }


def _origin(section: str, key: str, sources: Mapping[str, Tables], overrides: Tables) -> str:
    if key in overrides.get(section, {}):
        return f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()
    return next((name for name, tables in sources.items() if key in tables.get(section, {})), "default")


def _over(kind: type[Section], below: Tables, above: Tables) -> Tables:
    """Lay one source of values over another; every section is there."""
    return {section: {**below.get(section, {}), **above.get(section, {})} for section in _known_keys(kind)}


def read_file(path: Path) -> tuple[Header, Tables]:
    """Read a file as this release understands it, with its keys unchecked.

    Raises:
        ConfigError: It is missing or no TOML, or its header is of a newer release.
    """
    tables = tomllib.loads(migrated(path).text)
    header = {key: tables.pop(key) for key in list(tables) if not isinstance(tables[key], dict)}
    return read_header(header, str(path)), tables


def migrated(path: Path) -> Migrated:
    """Read a file's text in the schema of this release; the file stays as it is.

    Raises:
        ConfigError: It is missing or no TOML, or cannot be migrated line by line.
    """
    try:
        return migrate(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as exc:
        raise ConfigError(f"{path}: no such configuration file") from exc
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read as TOML: {exc}") from exc


def _tables(kind: type[Section], path: Path) -> Tables:
    header, tables = read_file(path)
    if header.tier is not None and SETTINGS[header.tier] is not kind:
        raise ConfigError(f"{path}: these are the settings of tier {header.tier.value!r}, not of the one asked for")
    return tables


def _overrides(kind: type[Section], environment: Mapping[str, str]) -> Tables:
    tables: Tables = {}
    for name, value in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
            _check_keys(kind, {section: {key: value}}, f"environment variable {name}")
            tables.setdefault(section, {})[key] = value.split(",") if (section, key) in _lists(kind) else value
    return tables


def _check_keys(kind: type[Section], tables: Tables, source: str) -> None:
    known = _known_keys(kind)
    for section, table in tables.items():
        if section not in known:
            raise ConfigError(f"{source}: unknown section [{section}]{_nearest(section, known)}")
        for key in table:
            if key not in known[section]:
                raise ConfigError(f"{source}: unknown key {section}.{key}{_nearest(key, known[section])}")


def _known_keys(kind: type[Section]) -> dict[str, tuple[str, ...]]:
    return {
        field.encode_name: tuple(inner.encode_name for inner in msgspec.structs.fields(field.type))
        for field in msgspec.structs.fields(kind)
    }


def _lists(kind: type[Section]) -> set[tuple[str, str]]:
    """Find the keys that hold lists; the environment writes them with commas."""
    return {
        (section.encode_name, field.encode_name)
        for section in msgspec.structs.fields(kind)
        for field in msgspec.structs.fields(section.type)
        if get_origin(field.type) is tuple
    }


def _nearest(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known are {', '.join(known)}"


def _readable(exc: msgspec.ValidationError) -> str:
    missing = re.fullmatch(r"Object missing required field `(\w+)` - at `\$\.(\w+)`", str(exc))
    if missing:
        section, key = missing[2], missing[1]
        variable = f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()
        return f"{section}.{key} is missing and has no default; set it in the file, or {variable}"
    return re.sub(r" - at `\$\.([\w.]+)`", r" (at \1)", str(exc))
