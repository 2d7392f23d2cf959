"""Settings as a commented TOML file: what was chosen, and every other key commented out with its default."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from common.config.header import SETTINGS
from common.config.migration import SCHEMA
from common.config.reference import SectionReference, Setting, describe
from common.errors import ConfigError
from common.types import Tier

Chosen = Mapping[str, Any]  # by section.key
_REMARK_COLUMN = 44


def write_settings(tier: Tier, chosen: Chosen) -> str:
    """Write the file of one process.

    Raises:
        ConfigError: A chosen key does not exist.
    """
    sections = describe(SETTINGS[tier])
    known = [setting.name for section in sections for setting in section.settings]
    for name in chosen:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
            raise ConfigError(f"{name}: {tier} has no such setting; {hint}")
    head = (
        f"# Settings of dimee's {tier}. A line that is commented out shows the default that is in force.\n"
        f"# An environment variable DIMEE_SECTION__KEY overrides a line; see 'dimee config show --config FILE'.\n"
        f'schema = {SCHEMA}  # of this file\ntier = "{tier}"\n'
    )
    return "\n".join([head, *(_section(section, chosen) for section in sections)])


def toml_value(value: Any) -> str:
    """Write a string, number, boolean or list of these as TOML."""
    match value:
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # as in JSON, DEL excepted
    return json.dumps(value)


def _section(section: SectionReference, chosen: Chosen) -> str:
    lines = (_line(setting, chosen) for setting in section.settings)
    return f"# {section.summary}\n[{section.name}]\n" + "".join(f"{line}\n" for line in lines)


def _line(setting: Setting, chosen: Chosen) -> str:
    if setting.name in chosen:
        line = f"{setting.key} = {toml_value(chosen[setting.name])}"
    elif setting.default is None:
        line = f"# {setting.key} ="
    else:
        line = f"# {setting.key} = {toml_value(setting.default)}"
    return f"{line.ljust(_REMARK_COLUMN)}  # {setting.remark}" if setting.remark else line
