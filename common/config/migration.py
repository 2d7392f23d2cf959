"""Settings files of an earlier schema: the keys that are no more are taken out line by line, so comments stay.

Whatever the edit makes is parsed and compared; a file that is written in another manner is refused, never guessed at.
"""

import re
import tomllib
from typing import Any, NamedTuple

from common.errors import ConfigError

SCHEMA = 2  # of the files that this release writes
_SECTION = re.compile(r"\s*\[(?P<name>[\w-]+)\]\s*(#.*)?")
_SETTING = re.compile(r"\s*(#\s?)?(?P<key>[\w-]+)\s*=")  # a default that is commented out, too


class Removed(NamedTuple):
    """A key that no longer exists."""

    schema: int  # the first one without it
    section: str
    key: str
    reason: str


REMOVED = (
    Removed(2, "routing", "cost", "no tier read it"),
    Removed(2, "mqtt", "connect_timeout_s", "a start waits for no connection any more"),
)


class Migrated(NamedTuple):
    """A file's text in this release's schema."""

    text: str
    changes: tuple[str, ...]  # in words; none where nothing had to be done


def migrate(text: str, source: str) -> Migrated:
    """Bring a settings file to ``SCHEMA``; one without a schema is taken for an old one with nothing to say of it.

    Raises:
        ConfigError: It is written in a way that a line editor cannot change safely.
        tomllib.TOMLDecodeError: It is no TOML.
    """
    tables = tomllib.loads(text)
    schema = tables.get("schema")
    if schema is not None and (type(schema) is not int or not 0 < schema < SCHEMA):
        return Migrated(text, ())
    gone = tuple(removed for removed in REMOVED if schema is None or schema < removed.schema)
    changes = tuple(
        f"{removed.section}.{removed.key} is gone: {removed.reason}" for removed in gone if _take_out(tables, removed)
    )
    if schema is None and not changes:
        return Migrated(text, ())
    edited = _without(text, gone)
    if schema is not None:
        tables["schema"] = SCHEMA
        edited = re.sub(rf"^(\s*schema\s*=\s*){schema}\b", rf"\g<1>{SCHEMA}", edited, count=1, flags=re.MULTILINE)
    _check_edit(edited, tables, changes, source)
    return Migrated(edited, (*([] if schema is None else [f"schema {schema} becomes {SCHEMA}"]), *changes))


def _take_out(tables: dict[str, Any], removed: Removed) -> bool:
    table = tables.get(removed.section)
    return isinstance(table, dict) and table.pop(removed.key, None) is not None


def _without(text: str, gone: tuple[Removed, ...]) -> str:
    names = {(removed.section, removed.key) for removed in gone}
    kept, section = [], ""
    for line in text.splitlines(keepends=True):
        if begun := _SECTION.fullmatch(line.rstrip("\r\n")):
            section = begun["name"]
        setting = _SETTING.match(line)
        if setting is None or (section, setting["key"]) not in names:
            kept.append(line)
    return "".join(kept)


def _check_edit(edited: str, wanted: dict[str, Any], changes: tuple[str, ...], source: str) -> None:
    try:
        is_right = tomllib.loads(edited) == wanted
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        remedy = "; ".join([f"write schema = {SCHEMA}", *changes])
        raise ConfigError(f"{source}: cannot be migrated line by line; change it by hand: {remedy}")
