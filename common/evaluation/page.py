"""An HTML page that needs nothing else: text, tables and pictures stand in it."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:14px}"
    "td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}code{background:#f3f3f3}"
)


def page(title: str, parts: Iterable[str]) -> str:
    """Give the page; its parts are HTML."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1>{''.join(parts)}</html>\n"
    )


def named(origin: Mapping[str, Any]) -> str:
    """Name bundle and data."""
    return ", ".join(f"{key} <code>{html.escape(str(value))}</code>" for key, value in origin.items())


def picture(file: Path, text: str) -> str:
    """Show a PNG under its name, with what it shows."""
    data = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<h2>{html.escape(file.stem.capitalize())}</h2><img alt="{html.escape(text)}" '
        f'src="data:image/png;base64,{data}"><p>{html.escape(text)}</p>'
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Show rows of plain text under their heads."""
    lines = ["".join(f"<th>{html.escape(head)}</th>" for head in heads)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
