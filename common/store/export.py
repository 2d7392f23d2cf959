"""The log as a file: a CSV row or a JSON line per request, written as it is read."""

import csv
from collections.abc import Iterable
from enum import StrEnum
from typing import TextIO

import msgspec

from common.store.queries import REQUEST_COLUMNS, RoutedRequest


class ExportFormat(StrEnum):
    """What an export is written as."""

    CSV = "csv"  # the request's columns, hops left out
    JSONL = "jsonl"  # one object per line, hops inside


def export(requests: Iterable[RoutedRequest], file: TextIO, format_: ExportFormat) -> int:
    """Write the requests and give their number."""
    match format_:
        case ExportFormat.CSV:
            return _write_csv(requests, file)
        case ExportFormat.JSONL:
            return _write_lines(requests, file)


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
