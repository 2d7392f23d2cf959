"""What an outbox holds; without the database, so that a device that keeps nothing on disk never loads it."""

import msgspec


class Promised(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted request as it waits on disk, enough to begin it again."""

    request_id: str
    input_id: str | None = None
    created_at: float  # seconds since the epoch, by the device's wall clock
    deadline: float  # the same
    text: str
    pair: str | None = None
    true_label: str | None = None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An answered request as it waits on disk."""

    request_id: str
    input_id: str | None
    record: bytes


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a former process left, each in order of deadline."""

    unanswered: tuple[Promised, ...]
    unrecorded: tuple[Kept, ...]
    recorded: tuple[Kept, ...]  # only those with an input_id
