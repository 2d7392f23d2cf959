"""Tiers inside a test's own process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.service.lifecycle import Stopping

LIMIT_S = 60.0


@contextmanager
def running(build: Any, settings: Any) -> Iterator[None]:
    """Run a tier in a thread of this process."""
    stopping = Stopping()
    thread = threading.Thread(target=build.run, args=(settings, stopping))
    thread.start()
    try:
        yield
    finally:
        stopping()
        thread.join(LIMIT_S)
