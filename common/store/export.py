"""The log as a file: a CSV row, a JSON line or a Parquet row per request, written as it is read."""

import csv
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TextIO

import msgspec

from common.errors import ConfigError
from common.store.queries import REQUEST_COLUMNS, RoutedRequest


class ExportFormat(StrEnum):
    """What an export is written as."""

    CSV = "csv"  # the request's columns, hops left out
    JSONL = "jsonl"  # one object per line, hops inside
    PARQUET = "parquet"  # typed columns, hops inside; into a file only


def write_file(requests: Iterable[RoutedRequest], path: Path, format_: ExportFormat) -> int:
    """Write the requests to a file and give their number.

    Raises:
        ConfigError: The format needs an extra that is not installed.
    """
    if format_ is ExportFormat.PARQUET:
        return _write_parquet(requests, path)
    with path.open("w", encoding="utf-8", newline="") as file:
        return write_text(requests, file, format_)


def write_text(requests: Iterable[RoutedRequest], file: TextIO, format_: ExportFormat) -> int:
    """Write the requests as text and give their number.

    Raises:
        ConfigError: The format is no text.
    """
    match format_:
        case ExportFormat.CSV:
            return _write_csv(requests, file)
        case ExportFormat.JSONL:
            return _write_lines(requests, file)
        case ExportFormat.PARQUET:
            raise ConfigError("--format parquet: is no text; name a file with --out")


def export_document(requests: Iterable[RoutedRequest], file: TextIO) -> int:
    """Write the requests as one JSON array, a request per line, and give their number."""
    written = 0
    for request in requests:
        file.write((",\n" if written else "[") + msgspec.json.encode(request).decode())
        written += 1
    file.write("]\n" if written else "[]\n")
    return written


def _write_csv(requests: Iterable[RoutedRequest], file: TextIO) -> int:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(REQUEST_COLUMNS)
    written = 0
    for request in requests:
        writer.writerow([getattr(request, column) for column in REQUEST_COLUMNS])
        written += 1
    return written


def _write_lines(requests: Iterable[RoutedRequest], file: TextIO) -> int:
    written = 0
    for request in requests:
        file.write(msgspec.json.encode(request).decode() + "\n")
        written += 1
    return written


def _write_parquet(requests: Iterable[RoutedRequest], path: Path) -> int:
    try:
        from common.store.parquet import write_parquet  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as exc:
        raise ConfigError(f"--format parquet: needs {exc.name!r}; pip install 'dimee[parquet]'") from exc
    return write_parquet(requests, path)
