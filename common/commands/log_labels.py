"""``dimee log label``, ``report`` and ``prune``: ground truth that comes later, what it says, and forgetting."""

import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from common.cli.output import print_json
from common.commands.log_options import (
    DEFAULT_URL,
    AsJson,
    Database,
)
from common.errors import ConfigError, StoreError
from common.store.engine import Engine, readable_log, writable_log
from common.store.labels import label_requests
from common.store.moments import moment
from common.store.retention import forget as forget_log
from common.store.retention import prune as prune_log


class _Label(msgspec.Struct):
    request_id: str
    label: str


def label(
    request_id: Annotated[str | None, typer.Argument(help="As 'dimee log list' shows it.")] = None,
    true_label: Annotated[str | None, typer.Argument(metavar="LABEL", help="What it really was.")] = None,
    *,
    file: Annotated[
        Path | None, typer.Option(help="Many at once: lines 'request_id,label', tabs too, or JSON lines.")
    ] = None,
    db: Database = DEFAULT_URL,
    new: Annotated[bool, typer.Option("--new", help="Allow a label that was never answered.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what a request really was. Example: dimee log label 3f2a positive.

    Either every label is written, or none; a label that is there already is replaced.
    """
    if (file is None) == (request_id is None or true_label is None):
        raise ConfigError("give REQUEST_ID and LABEL, or --file")
    labels = _read_labels(file) if file is not None else {str(request_id): str(true_label)}
    with _writable(db) as engine:
        changed = label_requests(engine, labels, may_be_new=new)
    if as_json:
        return print_json({"labelled": len(labels), "changed": changed})
    return typer.echo(f"{len(labels):,} requests labelled, {changed:,} of them anew")


def prune(
    *,
    older_than: Annotated[str, typer.Option(help="An age as 90d, or an ISO time; by the recorder's clock.")],
    db: Database = DEFAULT_URL,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old requests for good. Example: dimee log prune --older-than 90d --yes.

    An edge does it by itself where log.keep_days is set.
    """
    before = moment(older_than, time.time())
    if not yes:
        typer.confirm(f"Delete every request recorded before {older_than}?", abort=True, err=True)
    with _writable(db) as engine:
        deleted = prune_log(engine, before)
    if as_json:
        return print_json({"deleted": deleted})
    return typer.echo(f"{deleted:,} requests deleted")


def forget(
    *,
    device: Annotated[str | None, typer.Option(help="Everything of this device.")] = None,
    before: Annotated[
        str | None, typer.Option(help="What was recorded earlier: an age as 90d, or an ISO time.")
    ] = None,
    db: Database = DEFAULT_URL,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete for good, and prove it by a search of the file. Example: dimee log forget --device pi-1 --yes.

    With both options, what is of this device and older. Backups and exports are yours to delete.
    """
    if device is None and before is None:
        raise ConfigError("dimee log forget needs --device or --before")
    if not yes:
        typer.confirm(f"Delete for good: {device or 'every device'}, {before or 'any time'}?", abort=True, err=True)
    with _writable(db) as engine:
        forgotten = forget_log(engine, device=device, before=None if before is None else moment(before, time.time()))
    if as_json:
        print_json(forgotten)
    else:
        typer.echo(f"{forgotten.deleted:,} requests deleted; {forgotten.searched_for:,} of their ids searched for in")
        typer.echo(f"{forgotten.searched_bytes:,} bytes of the log, {forgotten.found:,} found")
    if forgotten.found:
        raise StoreError("some of it is still in the file: stop whatever has the log open, and run this again")


@contextmanager
def _writable(db: str) -> Iterator[Engine]:
    """Open a log that exists for writing."""
    try:
        with readable_log(db):
            pass
    except StoreError as exc:
        raise ConfigError(str(exc)) from exc  # the option is wrong, not the disk
    with writable_log(db) as engine:
        yield engine


def _read_labels(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--file {path}: cannot be read: {exc}") from exc
    labels: dict[str, str] = {}
    for place, line in enumerate(lines, start=1):
        if not line.strip() or (place == 1 and line.replace("\t", ",").startswith("request_id,")):
            continue
        found = _parse(line)
        if found is None:
            raise ConfigError(f"--file {path} line {place}: {line[:60]!r} is no request_id and label")
        if labels.setdefault(found.request_id, found.label) != found.label:
            raise ConfigError(f"--file {path} line {place}: {found.request_id!r} has two labels")
    if not labels:
        raise ConfigError(f"--file {path}: holds no labels")
    return labels


def _parse(line: str) -> _Label | None:
    if line.startswith("{"):
        try:
            return msgspec.json.decode(line, type=_Label)
        except msgspec.DecodeError:
            return None
    cells = next(csv.reader([line], delimiter="\t" if "\t" in line else ","))
    return _Label(*cells) if len(cells) == 2 and all(cells) else None
