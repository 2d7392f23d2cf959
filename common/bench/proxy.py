"""A link in user space: a TCP proxy that delays both directions, limits their rates, and can cut and hold connections.

Threads that sleep, not an event loop: epoll rounds its timeouts up to whole milliseconds, half a LAN's delay.
"""

import contextlib
import queue
import socket
import sys
import threading
import time
from types import TracebackType
from typing import Self

import msgspec

from common.bench.parts import Link, Shape, Shaped

_CHUNK_BYTES = 1 << 16
_MAX_CHUNKS = 256  # on the way in one direction; then the sender feels it
_CONNECT_LIMIT_S = 5.0


class LinkProxy:
    """Listens on a free loopback port while it is entered, and passes connections on through a link."""

    def __init__(self, target: tuple[str, int], link: Link, *, port: int = 0) -> None:
        """Listen at once, serve when entered."""
        self.link = link  # may be replaced at any time: it holds for the next chunk
        self.bytes_up = 0
        self.bytes_down = 0
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self._lock = threading.Lock()
        self._pipes: list[_Pipe] = []
        self._is_open = True
        self._is_accepting = True
        self._thread = threading.Thread(target=self._accept, name=f"link-{self.port}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._is_open = False
        with contextlib.suppress(OSError):  # wakes accept()
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        self.cut()
        for pipe in self._pipes:
            pipe.join()

    def cut(self) -> None:
        """Break every connection now; what was on its way is lost."""
        with self._lock:
            for pipe in self._pipes:
                pipe.cut()

    def refuse(self, *, is_refusing: bool) -> None:
        """Close new connections at once, or take them again."""
        self._is_accepting = not is_refusing

    def passed(self, chunk: bytes, *, is_up: bool) -> None:
        """Count what went through."""
        with self._lock:
            if is_up:
                self.bytes_up += len(chunk)
            else:
                self.bytes_down += len(chunk)

    def _accept(self) -> None:
        while self._is_open:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                if not self._is_accepting:
                    raise ConnectionRefusedError  # as if nobody listened
                far = socket.create_connection(self._target, timeout=_CONNECT_LIMIT_S)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._pipes = [pipe for pipe in self._pipes if pipe.is_alive()]
                ended: list[_Pipe] = []
                self._pipes += [_Pipe(self, near, far, ended, is_up=True), _Pipe(self, far, near, ended, is_up=False)]


def shape(part: Shape) -> None:
    """Be a link until stdin ends; say where it listens, and take each line of stdin as a new link."""
    with LinkProxy((part.host, part.port), Link()) as proxy:
        sys.stdout.buffer.write(msgspec.json.encode(Shaped(port=proxy.port)) + b"\n")
        sys.stdout.buffer.flush()
        for line in sys.stdin.buffer:
            proxy.link = msgspec.json.decode(line, type=Link)
            sys.stdout.buffer.write(line)  # it holds
            sys.stdout.buffer.flush()


class _Pipe:
    """One direction of one connection: a thread that reads and stamps, and one that sleeps and writes."""

    def __init__(
        self, proxy: LinkProxy, source: socket.socket, target: socket.socket, ended: "list[_Pipe]", *, is_up: bool
    ) -> None:
        self._proxy, self._source, self._target, self._is_up = proxy, source, target, is_up
        self._ended = ended  # directions of this connection; the second one closes it
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._chunks: queue.Queue[tuple[float, bytes]] = queue.Queue(_MAX_CHUNKS)
        self._threads = [threading.Thread(target=step, name="link-pipe") for step in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def is_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        for sock in (self._source, self._target):
            with contextlib.suppress(OSError):  # it is closed already
                sock.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        is_free_at = 0.0
        chunk = b"?"
        while chunk:
            try:
                chunk = self._source.recv(_CHUNK_BYTES)
            except OSError:
                chunk = b""
            link = self._proxy.link
            rate = link.up_mbit if self._is_up else link.down_mbit
            is_free_at = max(is_free_at, time.monotonic()) + (len(chunk) * 8e-6 / rate if rate else 0.0)
            self._chunks.put((is_free_at + link.delay_ms / 1000, chunk))

    def _write(self) -> None:
        is_broken = False
        while True:
            due, chunk = self._chunks.get()
            if not chunk:
                break
            if is_broken:
                continue  # the reader must never wait for us
            if (left_s := due - time.monotonic()) > 0:
                time.sleep(left_s)
            try:
                self._target.sendall(chunk)
            except OSError:
                is_broken = True
                self.cut()
            else:
                self._proxy.passed(chunk, is_up=self._is_up)
        with contextlib.suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)
        self._ended.append(self)
        if len(self._ended) == 2:
            self._source.close()
            self._target.close()
