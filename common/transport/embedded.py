"""An MQTT broker inside this process, for a demo or a site without Mosquitto: amqtt on a thread of its own.

It speaks MQTT 3.1.1 only and knows no shared subscriptions (``mqtt-facts``: amqtt). Without certificates it has no
users, so it then listens on loopback addresses alone.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.errors import ConfigError, DimeeError, TransportError
from common.transport.tls import is_loopback, read_protection

_LOGGER = logging.getLogger(__name__)
_START_LIMIT_S = 10.0
_STOP_LIMIT_S = 10.0
_CLOSE_LIMIT_S = 2.0
_HANDSHAKE_LIMIT_S = 5.0


class EmbeddedBroker:
    """A broker that runs while it is entered."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 1883,
        *,
        tls_folder: str | None = None,
        on_fatal: Callable[[DimeeError], None] | None = None,
    ) -> None:
        """Prepare without listening.

        Args:
            host: The address to listen on; without ``tls_folder`` a loopback address or ``localhost``.
            port: 0 lets the system choose; ``port`` tells after entering.
            tls_folder: The broker's certificates and access list (see ``read_protection``).
            on_fatal: Told on the broker's thread when it crashed.

        Raises:
            ConfigError: The address is not loopback, a file of the folder is not right, or amqtt is not installed.
        """
        if tls_folder is None and not is_loopback(host):
            raise ConfigError(
                f"embedded broker: {host!r} is not a loopback address, and without broker.tls_folder it has no users "
                "to keep strangers out; use 127.0.0.1, or give it certificates ('dimee certs')"
            )
        self.host = host
        self.port = port
        self._on_fatal = on_fatal
        self._protection = None if tls_folder is None else read_protection(Path(tls_folder))
        self._make_parts = _parts()
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
        make_broker, make_door = self._make_parts
        access, tls = (None, None) if self._protection is None else (self._protection.access, self._protection.tls)
        broker = make_broker(access)
        door = make_door(broker, access)
        await broker.start()
        limit_s = None if tls is None else _HANDSHAKE_LIMIT_S
        server = await asyncio.start_server(door.take_in, sock=self._listening, ssl=tls, ssl_handshake_timeout=limit_s)
        self._ready.set()
        await self._stopping.wait()
        server.close()
        await door.clear()  # first: amqtt's shutdown can wait for ever for a reader that swallowed its cancellation
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(broker.shutdown(), _CLOSE_LIMIT_S)


def _parts() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Give what makes amqtt, and what takes clients in for it."""
    try:
        from common.transport.amqtt_broker import AmqttBroker  # noqa: PLC0415 - an optional extra
        from common.transport.door import Door  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError(
            "the embedded broker needs the package 'amqtt', which is not installed; pip install 'dimee[edge]'"
        ) from exc
    return AmqttBroker, Door


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as exc:
        raise ConfigError(
            f"embedded broker: cannot listen on {host}:{port}: {exc.strerror}; "
            "stop what uses the port, or choose another"
        ) from exc


def _log_quietly(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _LOGGER.debug("embedded broker: %s", context.get("message"))
