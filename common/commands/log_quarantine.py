"""``dimee log quarantine``: messages that broke something, to look at and to let out again."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from common.cli.output import local_time, print_json, print_table
from common.commands.log_options import DEFAULT_URL, AsJson, Database
from common.errors import ConfigError, StoreError
from common.store.engine import sqlite_file
from common.store.quarantined import Poison, read_quarantine, release

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
File = Annotated[
    Path | None, typer.Option(help="worker.quarantine_file of the node; by default the one beside the log.")
]
Identifier = Annotated[str, typer.Argument(help="As 'dimee log quarantine list' shows it.")]
_SHOWN_BYTES = 256


@app.callback()
def quarantine() -> None:
    """Look at messages that broke something, and let them out."""


@app.command("list")
def list_(*, file: File = None, db: Database = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List them, newest first. Example: dimee log quarantine list."""
    found = _read(file, db)
    if as_json:
        return print_json([_document(poison) for poison in found])
    columns = ("id", "last", "times", "bytes", "device", "request", "topic", "reason")
    return print_table(f"{len(found)} in quarantine", columns, (_line(poison) for poison in found))


@app.command()
def show(poison_id: Identifier, *, file: File = None, db: Database = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one with its bytes. Example: dimee log quarantine show 3f2a."""
    found = next((poison for poison in _read(file, db) if poison.id == poison_id), None)
    if found is None:
        raise StoreError(f"the quarantine holds no {poison_id!r}; see 'dimee log quarantine list'")
    if as_json:
        return print_json({**_document(found), "body": found.body.hex()})
    facts = [(name, str(value)) for name, value in _document(found).items()]
    shown = found.body[:_SHOWN_BYTES].hex(" ") + (" …" if len(found.body) > _SHOWN_BYTES else "")
    return print_table(f"message {found.id}", ("", ""), [*facts, ("body", shown or "not kept")])


@app.command()
def clear(
    poison_id: Annotated[str | None, typer.Argument(help="One of them; all when none is named.")] = None,
    *,
    file: File = None,
    db: Database = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Let one out, or all; a running node takes them again at once. Example: dimee log quarantine clear."""
    released = release(_path(file, db), poison_id)
    print_json({"released": released}) if as_json else typer.echo(f"{released:,} messages released")


def _read(file: Path | None, db: str) -> list[Poison]:
    return read_quarantine(_path(file, db))


def _path(file: Path | None, db: str) -> Path:
    beside = sqlite_file(db)
    if file is None and beside is None:
        raise ConfigError("the log is on a server, so nothing lies beside it; name --file")
    return file or Path(f"{beside}.quarantine")


def _document(poison: Poison) -> dict[str, str | int | float | None]:
    fields = msgspec.structs.asdict(poison)
    del fields["body"]
    return fields


def _line(poison: Poison) -> tuple[str | int | None, ...]:
    return (
        poison.id,
        local_time(poison.last_at),
        poison.times,
        poison.num_bytes,
        poison.device_id,
        poison.request_id,
        poison.topic,
        poison.reason,
    )
