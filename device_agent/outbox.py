"""Where a device keeps what it has promised: in memory, or on disk for the process that comes after it."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Protocol

from common.config.settings import Outbox as OutboxSettings
from common.service.trust import open_vault
from common.store.promises import Contents, Promised

NOTHING = Contents(unanswered=(), unrecorded=(), recorded=())

Sync = Literal["written", "accepted", "answered"]
Release = Callable[[], None]


class Outbox(Protocol):
    """Keeps promises; any thread may call."""

    counters: Counter[str]
    contents: Contents  # what a former process left

    def check(self) -> None:
        """Say whether a request could be kept.

        Raises:
            OverloadedError: It could not, so it must not be accepted.
        """

    def accept(self, promised: Promised) -> None:
        """Keep a request that is about to leave the device.

        Raises:
            OverloadedError: It cannot be kept.
        """

    def finish(self, promised: Promised, record: bytes, release: Release) -> None:
        """Keep the record in the request's place; ``release`` runs once the answer may be let go."""

    def forget(self, request_ids: Sequence[str]) -> None:
        """Drop what the recorder has."""

    def refuse(self, request_id: str, reason: str) -> None:
        """Set aside a record that the recorder will not take."""


class MemoryOutbox:
    """Keeps nothing beyond the process."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.contents = NOTHING

    def check(self) -> None:
        """Find nothing in the way."""

    def accept(self, promised: Promised) -> None:
        """Keep nothing: the request lives as long as the process."""

    def finish(self, promised: Promised, record: bytes, release: Release) -> None:  # noqa: ARG002 - the seam's signature
        """Let the answer go at once."""
        release()

    def forget(self, request_ids: Sequence[str]) -> None:
        """Keep nothing."""

    def refuse(self, request_id: str, reason: str) -> None:
        """Keep nothing."""


def open_outbox(settings: OutboxSettings, *, on_crash: Callable[[], None], stack: ExitStack) -> Outbox:
    """Give the outbox that the configuration names, closed with ``stack``."""
    if settings.path is None:
        return MemoryOutbox()
    from device_agent.disk_outbox import DiskOutbox  # noqa: PLC0415 - that module imports this one
    from device_agent.sealed_outbox import SealedOutbox  # noqa: PLC0415 - and this one

    path, limit = Path(settings.path), settings.max_remembered
    disk = stack.enter_context(DiskOutbox(path, sync=settings.sync, max_remembered=limit, on_crash=on_crash))
    if settings.key_file is None:
        return disk
    return SealedOutbox(disk, open_vault("outbox.key_file", settings.key_file))
