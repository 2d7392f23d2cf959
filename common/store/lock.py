"""Keeps a second process from writing the same log file: both would take every record."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import StoreError
from common.store.engine import parse


@contextmanager
def sole_writer(url: str) -> Iterator[None]:
    """Hold the log of ``url`` for this process; the system lets go when the process ends, however it ends.

    Raises:
        StoreError: Another process holds it, or its folder cannot be written.
    """
    parsed = parse(url)
    if parsed.get_backend_name() != "sqlite":  # a server is made for several writers
        yield
        return
    path = Path(f"{parsed.database}.lock")
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as exc:
        raise StoreError(
            f"{path}: cannot be written: {exc.strerror}; create its folder or name another log.url"
        ) from exc
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"{parsed.database}: another process keeps its log here; stop it, or name another log.url"
            ) from None
        yield
    finally:
        os.close(held)
