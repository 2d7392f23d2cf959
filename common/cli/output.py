"""How every command speaks: one JSON document on stdout, or a table for people."""

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

Cell = str | int | float | None
_UNBOUNDED = 10_000  # columns of text; a pipe has no edge
_FOLDED_FROM = 24
_FIGURE = re.compile(r"-|[\d.,]+( %)?")


def print_json(document: Any) -> None:
    """Print one JSON document; whatever msgspec encodes, records and dataclasses among it."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print rows under their names, figures to the right; cells are plain text, never markup.

    On a terminal only long cells fold, so that no figure loses a digit; into a pipe nothing does.
    """
    from rich import box  # noqa: PLC0415 - a tenth of a second that --json and services need not pay
    from rich.console import Console  # noqa: PLC0415
    from rich.measure import Measurement  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    body = [[_cell(value) for value in row] for row in rows]
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, cells in zip(columns, zip(*body, strict=True) if body else ((),) * len(columns), strict=True):
        width = max(map(len, (name, *cells)))
        is_figure = all(_FIGURE.fullmatch(cell) for cell in cells)
        justify: Literal["right", "left"] = "right" if is_figure else "left"
        table.add_column(name, justify=justify, min_width=min(width, _FOLDED_FROM), overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _UNBOUNDED)
    least = Measurement.get(console, console.options.update(max_width=_UNBOUNDED), table).minimum
    console.width = max(console.width, least)
    console.print(table)


def local_time(created_at: float) -> str:
    """Write seconds since the epoch as this machine's local ISO time, to the second and without the zone."""
    return (
        datetime.fromtimestamp(created_at, UTC).astimezone().replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
    )


def percent(fraction: float | None) -> str:
    """Write 0.4213 as 42.1 %; a dash where there is nothing to say."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def number(value: float | None, digits: int = 1) -> str:
    """Write a number with grouped thousands; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def _cell(value: Cell) -> str:
    match value:
        case None:
            return "-"
        case int():
            return f"{value:,}"
        case float():
            return number(value)
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """Escape what would steer a terminal."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
