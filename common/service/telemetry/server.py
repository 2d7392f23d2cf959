"""A small HTTP server for three pages: /metrics, /healthz and /readyz."""

import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from common.errors import ConfigError
from common.service.telemetry.vitals import Vitals

_LOGGER = logging.getLogger(__name__)
_JSON = "application/json"
_REQUEST_LIMIT_S = 5.0  # a client that says nothing is cut off
_MAX_CONNECTIONS = 16


class Page(Protocol):
    """Something to scrape."""

    content_type: str

    def text(self) -> bytes:
        """Write it."""
        ...


@dataclass(frozen=True, slots=True)
class _Reply:
    status: HTTPStatus
    content_type: str
    body: bytes


class TelemetryServer:
    """Serves while it is entered, on threads of its own."""

    def __init__(self, host: str, port: int, vitals: Vitals, metrics: Page) -> None:
        """Take the address, without answering yet.

        Raises:
            ConfigError: The address is not this machine's, or in use.
        """
        self._vitals = vitals
        self._metrics = metrics
        self._server = _listen(host, port, self._reply)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="telemetry", kwargs={"poll_interval": 0.2}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        _LOGGER.info("metrics on http://%s:%d/metrics", self._server.server_address[0], self.port)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _reply(self, path: str) -> _Reply | None:
        match path.partition("?")[0]:
            case "/metrics":
                return _Reply(HTTPStatus.OK, self._metrics.content_type, self._metrics.text())
            case "/healthz":
                hung = self._vitals.hung
                return _state(is_good=not hung, hung_threads=hung)
            case "/readyz":
                is_connected = self._vitals.is_connected()
                return _state(is_good=is_connected, connected=is_connected)
        return None


def _state(*, is_good: bool, **facts: object) -> _Reply:
    status = HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE
    return _Reply(status, _JSON, msgspec.json.encode({"ok": is_good, **facts}))


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], reply: Callable[[str], _Reply | None]) -> None:
        self.reply = reply
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_LIMIT_S
    server_version = "dimee"
    sys_version = ""

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)  # noqa: S101 - made by nobody else
        reply = self.server.reply(self.path)
        if reply is None:
            self.send_error(HTTPStatus.NOT_FOUND, "try /metrics, /healthz or /readyz")
            return
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        _LOGGER.debug("%s " + format, self.address_string(), *args)  # noqa: G003 - the library's format


def _listen(host: str, port: int, reply: Callable[[str], _Reply | None]) -> _Server:
    try:
        return _Server((host, port), reply)
    except OSError as exc:
        raise ConfigError(f"metrics.host {host!r}, metrics.port {port}: cannot listen: {exc.strerror or exc}") from exc
