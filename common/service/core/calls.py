"""The five calls between a node and its trusted core; documented for other hosts in docs/trusted-core.md.

Bytes travel in a region of shared memory, everything else as one JSON object per datagram. The region belongs to the
caller until the call is made and to the core until it answers; both sides copy before they read.
"""

import mmap
import os
import socket
from typing import Annotated

import msgspec

from common.config.settings import CloudSettings, EdgeSettings
from common.errors import CrashError
from common.types import Tier
from common.wire.codec import MAX_MESSAGE_BYTES

REGION_BYTES = MAX_MESSAGE_BYTES + (1 << 16)
_DATAGRAM_BYTES = 1 << 17


class _Call(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class LoadModel(_Call, frozen=True, kw_only=True):
    """Verify the bundle and say which it is; answered by ``Loaded``."""

    tier: Tier
    edge: EdgeSettings | None = None  # one of the two
    cloud: CloudSettings | None = None

    @property
    def settings(self) -> EdgeSettings | CloudSettings:
        """The node's settings, which hold paths and no secrets."""
        found = self.edge or self.cloud
        if found is None:
            raise AssertionError("a tier has settings")
        return found


class InitModel(_Call, frozen=True, kw_only=True):
    """Make the sessions, read the keys, give up all rights; answered by ``Ready``."""


class Store(_Call, frozen=True, kw_only=True):
    """Take what lies in the region and came on a topic; answered by ``Stored``."""

    topic: str
    length: Annotated[int, msgspec.Meta(ge=0, le=REGION_BYTES)]
    received_at: float = 0.0  # the system's monotonic seconds


class Compute(_Call, frozen=True, kw_only=True):
    """Run the model over stored requests; answered by ``Computed``."""

    handles: tuple[int, ...]


class Result(_Call, frozen=True, kw_only=True):
    """Give what may leave: sealed messages, and records for the log; answered by ``Released``."""

    handle: int


Call = LoadModel | InitModel | Store | Compute | Result


class _Reply(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class Loaded(_Reply, frozen=True, kw_only=True):
    """The manifest lies in the region."""

    length: int


class Ready(_Reply, frozen=True, kw_only=True):
    """The core computes from now on."""

    tier_key: str  # public
    depth: int
    confinement: tuple[str, ...]  # what is in force, by name


class Stored(_Reply, frozen=True, kw_only=True):
    """What a caller needs to queue a request, and nothing of its contents."""

    handle: int = 0  # 0: nothing is kept; it was refused, or concerned the core alone
    device_id: str = ""
    budget_ms: float = 0.0
    is_retry: bool = False
    counters: dict[str, int] = {}


class Computed(_Reply, frozen=True, kw_only=True):
    """What can be asked for with ``Result``."""

    handles: tuple[int, ...]
    counters: dict[str, int]


class Released(_Reply, frozen=True, kw_only=True):
    """A message lies in the region."""

    topic: str
    length: int


class Refused(_Reply, frozen=True, kw_only=True):
    """The call was not carried out; the caller raises the error of this name."""

    error: str
    detail: str


Reply = Loaded | Ready | Stored | Computed | Released | Refused


class Wire:
    """One end: a datagram socket and the region."""

    def __init__(self, sock: socket.socket, region_fd: int) -> None:
        self._sock = sock
        self._region = mmap.mmap(region_fd, REGION_BYTES)

    def close(self) -> None:
        """Let go of both."""
        self._sock.close()
        self._region.close()

    def put(self, payload: bytes) -> int:
        """Lay bytes into the region; give how many."""
        if len(payload) > REGION_BYTES:
            raise AssertionError(f"{len(payload)} bytes were refused before they came here")
        self._region[: len(payload)] = payload
        return len(payload)

    def take(self, length: int) -> bytes:
        """Copy bytes out of the region and wipe them."""
        payload = bytes(self._region[:length])
        self._region[:length] = bytes(length)
        return payload

    def send(self, message: Call | Reply) -> None:
        """Send one datagram."""
        self._sock.send(msgspec.json.encode(message))

    def hear_call(self) -> Call | None:
        """Wait for a call; None when the caller is gone."""
        try:
            datagram = self._sock.recv(_DATAGRAM_BYTES)
        except ConnectionResetError:  # it was killed in the middle of a call
            return None
        return msgspec.json.decode(datagram, type=Call) if datagram else None

    def hear_reply(self) -> Reply:
        """Wait for the reply.

        Raises:
            CrashError: The core is gone.
        """
        try:
            datagram = self._sock.recv(_DATAGRAM_BYTES)
        except OSError as exc:
            raise CrashError(f"the trusted core is gone: {exc.strerror}") from exc
        if not datagram:
            raise CrashError("the trusted core is gone")
        reply: Reply = msgspec.json.decode(datagram, type=Reply)
        return reply


def make_region() -> int:
    """Make the shared memory, of a size that nobody can change; give its descriptor."""
    import fcntl  # noqa: PLC0415 - POSIX alone

    fd = os.memfd_create("dimee-core", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, REGION_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd
