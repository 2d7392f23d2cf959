"""How every command speaks: one JSON document on stdout, or a table for people."""

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

Cell = str | int | float | None


def print_json(document: Any) -> None:
    """Print one JSON document; whatever msgspec encodes, records and dataclasses among it."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print rows under their names, numbers to the right; cells are plain text, never markup.

    Piped, the table is as wide as it needs; on a terminal it fits, and long cells fold.
    """
    from rich import box  # noqa: PLC0415 - a tenth of a second that --json and services need not pay
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    body = [tuple(row) for row in rows]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(columns):
        is_right = all(_is_figure(row[position]) for row in body)
        table.add_column(name, justify="right" if is_right else "left", overflow="fold")
    for row in body:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table).maximum)
    console.print(table)


def local_time(created_at: float) -> str:
    """Write seconds since the epoch as this machine's local ISO time, to the millisecond."""
    return datetime.fromtimestamp(created_at, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")


def percent(fraction: float | None) -> str:
    """Write 0.4213 as 42.1 %; a dash where there is nothing to say."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def number(value: float | None, digits: int = 1) -> str:
    """Write a number with grouped thousands; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _is_figure(value: Cell) -> bool:
    return not isinstance(value, str) or re.fullmatch(r"-|[\d.,]+( %)?", value) is not None


def _cell(value: Cell) -> str:
    match value:
        case None:
            return "-"
        case int():
            return f"{value:,}"
        case float():
            return number(value)
        case _:
            return _printable(str(value))


def _printable(text: str) -> str:
    # a peer's text must not steer the terminal
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
