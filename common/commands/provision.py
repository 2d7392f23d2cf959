"""What ``dimee init`` puts on a machine: a settings file that loads, folders and a password with the right modes."""

import os
import re
import secrets
import shlex
import socket
import stat
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from common.config.document import toml_value, write_settings
from common.config.header import SETTINGS
from common.config.load import load, read_file
from common.errors import ConfigError
from common.types import Tier
from common.wire.topics import checked

Chosen = dict[str, Any]  # by section.key
_PRIVATE_FOLDER, _PUBLIC_FOLDER = 0o700, 0o755
_PRIVATE_FILE, _PUBLIC_FILE = 0o600, 0o644
_OWN_FILES = frozenset({"password_file", "tls_certificate_file", "tls_key_file"})
_SHARED_FILES = ("mqtt.tls_ca_file",)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_OWN_FLAGS = {"mqtt.host": "--host", "mqtt.port": "--port", "mqtt.site": "--site", "mqtt.username": "--username"}


def machine_name() -> str:
    """Name this machine, for a node id."""
    return socket.gethostname()


def unique_id(tier: Tier, host: str) -> str:
    """Make a node id that no other machine makes: the tier, the machine's name, and four random digits."""
    name = re.sub(r"[^a-z0-9]+", "-", host.lower().partition(".")[0]).strip("-")[:40]
    return "-".join(filter(None, (str(tier), name, secrets.token_hex(2))))


def parse_assignments(assignments: Iterable[str]) -> Chosen:
    """Read ``SECTION.KEY=VALUE``; the value is TOML, or else plain text.

    Raises:
        ConfigError: One is no assignment.
    """
    chosen: Chosen = {}
    for assignment in assignments:
        name, equals, written = assignment.partition("=")
        if not equals or not re.fullmatch(r"\w+\.\w+", name):
            raise ConfigError(f"--set {assignment!r} is no SECTION.KEY=VALUE, e.g. mqtt.keepalive_s=60")
        try:
            chosen[name] = tomllib.loads(f"value = {written}")["value"]
        except tomllib.TOMLDecodeError:
            chosen[name] = written
    return chosen


def write_config(tier: Tier, chosen: Mapping[str, Any], path: Path) -> None:
    """Write a settings file that is known to load; whatever goes wrong, the old one stays as it is.

    Raises:
        ConfigError: It cannot be written, or a value is wrong.
    """
    checked("node.id", str(chosen["node.id"]))
    checked("mqtt.site", str(chosen.get("mqtt.site", "home")))
    text = write_settings(tier, chosen)
    make_folder(path.parent, _PUBLIC_FOLDER)
    with _replacing(path, _PUBLIC_FILE) as draft:
        draft.write_text(text, encoding="utf-8")
        _check_draft(tier, draft)


def replace_file(path: Path, text: str) -> None:
    """Write a file that everybody may read, whole or not at all.

    Raises:
        ConfigError: Its folder is missing or may not be written.
    """
    with _replacing(path, _PUBLIC_FILE) as draft:
        draft.write_text(text, encoding="utf-8")


def rewrite_config(tier: Tier | None, text: str, path: Path) -> Path:
    """Write a settings file anew under its mode and owner; give the backup of the one before, which lies beside it.

    Raises:
        ConfigError: There is such a backup already, a value is wrong, or the folder may not be written.
    """
    path, before = path.resolve(), path.stat()
    backup = path.with_name(f"{path.name}.bak")
    if backup.exists():
        raise ConfigError(f"{backup} exists and is not overwritten; move it away")
    with _replacing(path, stat.S_IMODE(before.st_mode)) as draft:
        draft.write_text(text, encoding="utf-8")
        os.chown(draft, before.st_uid, before.st_gid)
        if tier is not None:
            _check_draft(tier, draft)
        backup.hardlink_to(path)
    return backup


def write_password(password: str, path: Path) -> None:
    """Keep a password where only its owner reads it.

    Raises:
        ConfigError: It is empty or of several lines, or the file cannot be written.
    """
    if not password or password.splitlines() != [password]:
        raise ConfigError("the password must be one line that is not empty")
    make_folder(path.parent, _PUBLIC_FOLDER)
    with _replacing(path, _PRIVATE_FILE) as draft:
        draft.write_text(f"{password}\n", encoding="utf-8")


def make_folder(path: Path, mode: int = _PRIVATE_FOLDER) -> None:
    """Make a folder where there is none; one that exists keeps its mode."""
    try:
        if not path.is_dir():
            path.mkdir(mode=mode, parents=True)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be made a folder: {exc.strerror}") from exc


class Enrolment(NamedTuple):
    """How a board joins a site."""

    command: str  # for its shell
    files: tuple[str, ...]  # of the edge, which the board needs too


def enrolment(source: str, *, site: str | None, node: str | None) -> Enrolment:
    """Give the command that enrols a device with an edge's broker: ``source`` is its settings file, or HOST[:PORT].

    Raises:
        ConfigError: No other machine can reach that broker.
    """
    path = Path(source).expanduser()
    chosen = _shared_settings(path) if path.is_file() else _address(source)
    files = tuple(str(chosen.pop(name)) for name in _SHARED_FILES if name in chosen)
    if site is not None:
        chosen["mqtt.site"] = site
    if str(chosen.get("mqtt.host", "127.0.0.1")) in _LOOPBACK:
        chosen["mqtt.host"] = machine_name()
    command = ["dimee", "init", "device", "--id", node or unique_id(Tier.DEVICE, "")]
    for name, value in sorted(chosen.items()):
        flag = _OWN_FLAGS.get(name)
        command += [flag, str(value)] if flag else ["--set", f"{name}={toml_value(value)}"]
    return Enrolment(shlex.join(command), files)


def _address(source: str) -> Chosen:
    host, colon, port = source.rpartition(":")
    if not colon:
        return {"mqtt.host": source}
    if not host or not port.isdecimal():
        raise ConfigError(f"--from {source!r} is neither a settings file nor HOST[:PORT]")
    return {"mqtt.host": host, "mqtt.port": int(port)}


def _shared_settings(path: Path) -> Chosen:
    """Give what a device's connection has in common with an edge's; passwords, keys and certificates are its own."""
    _, tables = read_file(path)
    if tables.get("broker", {}).get("is_enabled"):
        raise ConfigError(f"{path}: its embedded broker listens on loopback only; run Mosquitto for other machines")
    mqtt = tables.get("mqtt", {})
    return {f"mqtt.{key}": value for key, value in mqtt.items() if key not in _OWN_FILES}


def _check_draft(tier: Tier, draft: Path) -> None:
    try:
        load(SETTINGS[tier], draft, {})
    except ConfigError as exc:
        raise ConfigError(f"not written: {str(exc).removeprefix(f'{draft}: ')}") from exc


@contextmanager
def _replacing(target: Path, mode: int) -> Iterator[Path]:
    """Give a draft beside a file; it takes the file's place unless something goes wrong."""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as exc:
        raise ConfigError(f"{target}: cannot be written: {exc.strerror}") from exc
    draft = Path(name)
    try:
        os.fchmod(handle, mode)
        os.close(handle)
        yield draft
        draft.replace(target)
    except OSError as exc:
        raise ConfigError(f"{target}: cannot be written: {exc.strerror}") from exc
    finally:
        draft.unlink(missing_ok=True)
