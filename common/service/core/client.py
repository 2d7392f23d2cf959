"""The outside of the trusted core: it carries bytes and metadata, and opens nothing."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from types import TracebackType
from typing import Self, TypeVar

from common import errors
from common.config.settings import CloudSettings, EdgeSettings
from common.errors import ConfigError, CrashError, DimeeError
from common.model import manifest as manifests
from common.model.manifest import Manifest
from common.service.core.calls import (
    Call,
    Compute,
    Computed,
    InitModel,
    Loaded,
    LoadModel,
    Ready,
    Refused,
    Released,
    Result,
    Store,
    Stored,
    Wire,
    make_region,
)
from common.transport.contract import Delivery, Inbox
from common.types import Tier

_LOGGER = logging.getLogger(__name__)
_STOP_LIMIT_S = 10.0
_Replied = TypeVar("_Replied")


class Heard(Inbox):
    """Statuses until the core wants them; never grows with traffic."""

    def __init__(self, max_nodes: int = 256) -> None:
        super().__init__(max_nodes)
        self._waiting: deque[Delivery] = deque(maxlen=max_nodes)

    def put(self, delivery: Delivery) -> bool:
        """Keep a status; the oldest gives way."""
        self._waiting.append(delivery)
        return True

    def take(self) -> list[Delivery]:
        """Take what has come."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


class Core:
    """The five calls, from any thread; the process ends with it."""

    def __init__(self, settings: EdgeSettings | CloudSettings, tier: Tier) -> None:
        """Start the process, load the model and begin.

        Raises:
            ConfigError: A setting or a file is wrong, or this system has no such processes.
            ArtifactError: The bundle is not intact.
        """
        self.counters: dict[str, int] = {}
        self.heard = Heard()
        self._lock = threading.Lock()
        self._process, self._wire = _start()
        try:
            self.manifest = self._load(settings, tier)
            self.ready = self._call(InitModel(), Ready)
        except BaseException:
            self.close()
            raise
        missing = sorted({"no new privileges", "not dumpable", "seccomp"} - set(self.ready.confinement))
        _LOGGER.info("the trusted core is process %d: %s", self._process.pid, ", ".join(self.ready.confinement))
        if missing:
            _LOGGER.warning("the trusted core runs without: %s", ", ".join(missing))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the process end."""
        self._wire.close()
        try:
            self._process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def store(self, topic: str, payload: bytes, received_at: float) -> Stored:
        """Hand bytes over.

        Raises:
            WireError: They may not be stored.
        """
        with self._lock:
            length = self._wire.put(payload)
            stored = self._called(Store(topic=topic, length=length, received_at=received_at), Stored)
        self.counters = stored.counters or self.counters
        return stored

    def compute(self, handles: tuple[int, ...]) -> Computed:
        """Run the model over stored requests."""
        for status in self.heard.take():
            self.store(status.topic, status.payload, status.received_at)
        computed = self._call(Compute(handles=handles), Computed)
        self.counters = computed.counters
        return computed

    def result(self, handle: int) -> tuple[str, bytes]:
        """Take what may leave.

        Raises:
            WireError: It may not.
        """
        with self._lock:
            released = self._called(Result(handle=handle), Released)
            return released.topic, self._wire.take(released.length)

    def _load(self, settings: EdgeSettings | CloudSettings, tier: Tier) -> Manifest:
        call = (
            LoadModel(tier=tier, edge=settings)
            if isinstance(settings, EdgeSettings)
            else LoadModel(tier=tier, cloud=settings)
        )
        with self._lock:
            loaded = self._called(call, Loaded)
            return manifests.parse(self._wire.take(loaded.length), "the trusted core's manifest")

    def _call(self, call: Call, kind: type[_Replied]) -> _Replied:
        with self._lock:
            return self._called(call, kind)

    def _called(self, call: Call, kind: type[_Replied]) -> _Replied:
        try:
            self._wire.send(call)
        except OSError as exc:
            raise CrashError(f"the trusted core is gone: {exc.strerror}") from exc
        reply = self._wire.hear_reply()
        if isinstance(reply, Refused):
            kinds = {name: each for name, each in vars(errors).items() if isinstance(each, type)}
            found = kinds.get(reply.error, DimeeError)
            raise found(reply.detail) if issubclass(found, DimeeError) else DimeeError(reply.detail)
        if not isinstance(reply, kind):
            raise CrashError(f"the trusted core answered {type(call).__name__} with {type(reply).__name__}")
        return reply


def open_core(settings: EdgeSettings | CloudSettings, tier: Tier) -> Core:
    """Start the core of a tier.

    Raises:
        ConfigError: Its channel is not sealed, it is to serve more than one bundle or to export spans, or this is not
            Linux.
    """
    if settings.channel.name != "sealed":
        raise ConfigError("channel.has_core needs channel.name = 'sealed': what comes in plain needs no core")
    if settings.updates.folder is not None or settings.worker.variants:
        raise ConfigError("channel.has_core serves one bundle: unset updates.folder and worker.variants")
    if settings.tracing.endpoint is not None:
        raise ConfigError("channel.has_core exports no spans: unset tracing.endpoint; a traceparent is passed on")
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"channel.has_core needs Linux; this is {sys.platform}")
    return Core(settings, tier)


def _start() -> tuple["subprocess.Popen[bytes]", Wire]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    region = make_region()
    with theirs, contextlib.ExitStack() as stack:
        stack.callback(os.close, region)
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH", "LANG", "HOME"}}
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "common.service.core.process", str(theirs.fileno()), str(region)],
            pass_fds=(theirs.fileno(), region),
            env=kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        return process, Wire(ours, region)
