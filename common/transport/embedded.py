"""An MQTT broker inside this process, for a demo or a site without Mosquitto: amqtt on a thread of its own.

It speaks MQTT 3.1.1 only and knows no shared subscriptions (``mqtt-facts``: amqtt). It has no users, so it listens on
loopback addresses alone.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from common.errors import ConfigError, DimeeError, TransportError
from common.transport.tls import is_loopback

_LOGGER = logging.getLogger(__name__)
_LISTENER = "default"
_START_LIMIT_S = 10.0
_STOP_LIMIT_S = 10.0
_CLOSE_LIMIT_S = 2.0
_OPENING_LIMIT_S = 5.0
_PROTOCOL_NAME = b"\x00\x04MQTT"
_LEVEL_V311 = 4
_MAX_HEADER_BYTES = 5
_VERSION_REFUSED = bytes([0x20, 2, 0, 1])  # CONNACK: unacceptable protocol version
_CONFIG: dict[str, Any] = {
    "listeners": {_LISTENER: {"type": "external"}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}


class EmbeddedBroker:
    """A broker that runs while it is entered."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 1883, *, on_fatal: Callable[[DimeeError], None] | None = None
    ) -> None:
        """Prepare without listening.

        Args:
            host: A loopback address or ``localhost``.
            port: 0 lets the system choose; ``port`` tells after entering.
            on_fatal: Told on the broker's thread when it crashed.

        Raises:
            ConfigError: The address is not loopback, or amqtt is not installed.
        """
        if not is_loopback(host):
            raise ConfigError(
                f"embedded broker: {host!r} is not a loopback address, and it has no users to keep strangers out; "
                "use 127.0.0.1, or run Mosquitto for a network"
            )
        self.host = host
        self.port = port
        self._on_fatal = on_fatal
        self._make_broker = _broker_factory()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._listening: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="broker")

    def __enter__(self) -> Self:
        """Listen and serve.

        Raises:
            ConfigError: The port is in use or may not be used.
        """
        self._listening = _listen(self.host, self.port)
        self.port = self._listening.getsockname()[1]
        self._thread.start()
        if not self._ready.wait(_START_LIMIT_S) or self._failure is not None:
            self.stop()
            raise ConfigError(f"embedded broker on {self.host}:{self.port} did not start: {self._failure!r}")
        _LOGGER.info("embedded broker listens on %s:%d", self.host, self.port)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close all connections and the port."""
        self.stop()

    def stop(self) -> None:
        """Close all connections and the port; harmless when it is done already."""
        if self._thread.ident is None:
            return
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_LIMIT_S)
        if self._thread.is_alive():
            _LOGGER.error("embedded broker on port %d did not stop within %.0f s", self.port, _STOP_LIMIT_S)
        if self._listening is not None:
            self._listening.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as exc:
            self._failure = exc
            if self._ready.is_set():
                _LOGGER.exception("embedded broker on port %d crashed", self.port)
                if self._on_fatal is not None:
                    self._on_fatal(TransportError(f"embedded broker on port {self.port} crashed: {exc!r}"))
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(_log_quietly)
        broker = self._make_broker()
        door = _Door(broker)
        await broker.start()
        server = await asyncio.start_server(door.take_in, sock=self._listening)
        self._ready.set()
        await self._stopping.wait()
        server.close()
        await door.clear()  # first: amqtt's shutdown can wait for ever for a reader that swallowed its cancellation
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(broker.shutdown(), _CLOSE_LIMIT_S)


class _Door:
    """Takes clients in for a broker, and puts them out at the end."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._clients: dict[asyncio.Task[Any] | None, asyncio.StreamWriter] = {}

    async def take_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client to its end."""
        # asyncio does this only for sockets that name their protocol, and accepted ones do not
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients[asyncio.current_task()] = writer
        try:
            opening = await _opening(reader)
            if opening is None or opening[-1] != _LEVEL_V311:
                writer.write(_VERSION_REFUSED)
                writer.close()
            else:
                await self._broker.external_connected(_Replayed(opening, reader), _writer_adapter(writer), _LISTENER)
        finally:
            del self._clients[asyncio.current_task()]

    async def clear(self) -> None:
        """Close every connection and give the clients' tasks a moment to see it."""
        tasks = [task for task in self._clients if task is not None]
        for writer in self._clients.values():
            writer.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_LIMIT_S)


def _broker_factory() -> Any:
    try:
        from amqtt.broker import Broker  # noqa: PLC0415 - an optional extra
    except ImportError as exc:
        raise ConfigError(
            "the embedded broker needs the package 'amqtt', which is not installed; pip install 'dimee[edge]'"
        ) from exc

    class Quiet(Broker):  # type: ignore[misc]
        """amqtt, with the take-over that MQTT asks for."""

        async def _delete_session(self, client_id: str) -> None:
            """Close the older connection of the id too; amqtt leaves it open and deaf (MQTT 3.1.1, 3.1.4-2)."""
            _, handler = self._sessions.get(client_id, (None, None))
            await super()._delete_session(client_id)
            if handler is not None:
                await handler.handle_connection_closed()
                if handler.writer is not None:
                    handler.writer.put_out()

    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a client's every slip is an error or a traceback there
    return lambda: Quiet(_CONFIG)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as exc:
        raise ConfigError(
            f"embedded broker: cannot listen on {host}:{port}: {exc.strerror}; "
            "stop what uses the port, or choose another"
        ) from exc


def _writer_adapter(writer: asyncio.StreamWriter) -> Any:
    from amqtt.adapters import StreamWriterAdapter  # noqa: PLC0415 - an optional extra

    class Adapter(StreamWriterAdapter):  # type: ignore[misc]
        def put_out(self) -> None:
            """Close at once, so that the reader ends too: amqtt waits for ever for one that it cancelled in vain."""
            writer.transport.abort()

    return Adapter(writer)


async def _opening(reader: asyncio.StreamReader) -> bytes | None:
    """Read CONNECT up to its protocol level; None when the client sends something else, or nothing for too long.

    amqtt itself waits for ever for the rest of an MQTT 5 CONNECT, whose properties it takes for lengths.
    """
    try:
        async with asyncio.timeout(_OPENING_LIMIT_S):
            opening = await reader.readexactly(2)
            while opening[-1] & 0x80 and len(opening) < _MAX_HEADER_BYTES:
                opening += await reader.readexactly(1)
            opening += await reader.readexactly(len(_PROTOCOL_NAME) + 1)
    except (TimeoutError, asyncio.IncompleteReadError, OSError):
        return None
    return opening if opening[:-1].endswith(_PROTOCOL_NAME) else None


class _Replayed:
    """A reader for amqtt that gives what was read already once more."""

    def __init__(self, opening: bytes, reader: asyncio.StreamReader) -> None:
        self._opening = opening
        self._reader = reader

    async def read(self, n: int = -1) -> bytes:
        """Give exactly ``n`` bytes, or what there is."""
        taken = self._opening if n < 0 else self._opening[:n]
        self._opening = self._opening[len(taken) :]
        if n < 0:
            return taken + await self._reader.read(n)
        return taken + await self._reader.readexactly(n - len(taken)) if n > len(taken) else taken

    def feed_eof(self) -> None:
        """Pass the end on."""
        self._reader.feed_eof()


def _log_quietly(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _LOGGER.debug("embedded broker: %s", context.get("message"))
