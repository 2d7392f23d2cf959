"""What an outbox holds; without the database, so that a device that keeps nothing on disk never loads it."""

from collections.abc import Sequence

import msgspec

from common.errors import StoreError


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


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="A"):
    """A request was accepted."""

    promised: Promised


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="F"):
    """A request was answered; the record takes its place, or that of a record which said less."""

    request_id: str
    input_id: str | None
    created_at: float
    deadline: float
    record: bytes


class Forgotten(msgspec.Struct, frozen=True, array_like=True, tag="R"):
    """The recorder has these records."""

    request_ids: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="X"):
    """The recorder will not take a record."""

    request_id: str
    reason: str


Step = Accepted | Finished | Forgotten | Refused
encode_step = msgspec.msgpack.Encoder().encode
_decode_step = msgspec.msgpack.Decoder(Step).decode


def decode_steps(frames: Sequence[bytes]) -> list[Step]:
    """Read what ``encode_step`` wrote.

    Raises:
        StoreError: Another release wrote it in another way.
    """
    try:
        return [_decode_step(frame) for frame in frames]
    except msgspec.DecodeError as exc:
        raise StoreError(f"the outbox's frames are of another release: {exc}; start that one once") from exc
