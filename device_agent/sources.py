"""Where a device's texts come from: stdin, a growing JSONL file, or its MQTT input topic; what waits comes together."""

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import ConfigError, InputError
from common.service.lifecycle import Stopping
from common.transport.contract import Inbox
from common.wire.documents import Input, decode_input
from device_agent.agent import MOST_TOGETHER

Arrival = Input | InputError  # what cannot be read is answered, too

_POLL_S = 0.2
_CHUNK_BYTES = 1 << 16
_MAX_LINE_BYTES = 1_000_000


def from_stream(stream: BinaryIO, stopping: Stopping) -> Iterator[list[Arrival]]:
    """Read one input per line until the stream ends or the process is asked to stop."""
    rest, number = b"", 0
    while not stopping.is_asked:
        if not select.select([stream], [], [], _POLL_S)[0]:  # a plain read would not notice the stop
            continue
        chunk = os.read(stream.fileno(), _CHUNK_BYTES)
        *lines, rest = (rest + chunk).split(b"\n")
        whole = lines if chunk else list(filter(None, [rest]))
        yield [_parse(line, f"line {place}") for place, line in enumerate(whole, number + 1)]
        number += len(whole)
        if not chunk:
            return


def from_file(path: Path, stopping: Stopping) -> Iterator[list[Arrival]]:
    """Follow a file that others append to, from its start; a file that is replaced is read anew.

    Raises:
        ConfigError: The file does not exist.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file to watch; create it first")
    while not stopping.is_asked:
        with path.open("rb") as file:
            yield from _follow(file, path, stopping)


def from_inbox(inbox: Inbox) -> Iterator[list[Arrival]]:
    """Take inputs that applications publish, until the inbox is closed."""
    while (deliveries := inbox.get_batch(MOST_TOGETHER)) is not None:
        yield [_parse(delivery.payload, f"message on {delivery.topic}") for delivery in deliveries]


def _follow(file: BinaryIO, path: Path, stopping: Stopping) -> Iterator[list[Arrival]]:
    rest, number = b"", 0
    while not stopping.is_asked:
        chunk = file.readline(_MAX_LINE_BYTES)
        rest += chunk
        if rest.endswith(b"\n"):
            number += 1
            yield [_parse(rest, f"{path} line {number}")]
            rest = b""
        elif not chunk:
            if _is_replaced(file, path):
                return
            stopping.wait(_POLL_S)


def _is_replaced(file: BinaryIO, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file.fileno())
    return there.st_ino != here.st_ino or there.st_size < file.tell()


def _parse(line: bytes, place: str) -> Arrival:
    try:
        return decode_input(line.strip(b"\r\n"))
    except InputError as exc:
        return InputError(f"{place}: {exc}")
