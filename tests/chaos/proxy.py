"""A userspace TCP proxy whose link can be slow, narrow, cut, half open or reset."""

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 16384


@dataclass(slots=True)
class Link:
    """How the link behaves now; read anew for every chunk."""

    latency_s: float = 0.0  # each way
    bytes_per_s: float = 0.0  # 0: no limit
    is_cut: bool = False  # connections end, new ones are refused
    is_half_open: bool = False  # connections stay and carry nothing


class Proxy:
    """One listener in front of one target, on a thread of its own."""

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self.link = Link()
        self.port = 0
        self._host = host
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._is_listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_listening.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def drop(self, *, is_reset: bool = False) -> None:
        """End all connections, with a reset or without a word."""
        self._loop.call_soon_threadsafe(partial(self._drop, is_reset=is_reset))

    def heal(self) -> None:
        """Let everything through; what hung is ended, as a router does that comes back without its state."""
        had_hung, self.link = self.link.is_half_open, Link()
        if had_hung:
            self.drop(is_reset=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, self._host, 0))
        self.port = server.sockets[0].getsockname()[1]
        self._is_listening.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _drop(self, *, is_reset: bool) -> None:
        for writer in list(self._writers):
            if is_reset:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        far_writer: asyncio.StreamWriter | None = None
        try:
            if self.link.is_cut:
                return
            far_reader, far_writer = await asyncio.open_connection(self._host, self._target_port)
            self._writers.add(far_writer)
            for one in (writer, far_writer):
                one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.wait(
                [asyncio.ensure_future(self._carry(*pair)) for pair in ((reader, far_writer), (far_reader, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except OSError:
            return
        finally:
            for one in filter(None, (writer, far_writer)):
                self._writers.discard(one)
                one.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while chunk := await reader.read(_CHUNK_BYTES):
                link = self.link
                if link.is_cut:
                    return
                if link.is_half_open:
                    continue  # swallowed; nobody is told
                wait_s = link.latency_s + (len(chunk) / link.bytes_per_s if link.bytes_per_s else 0.0)
                if wait_s:
                    await asyncio.sleep(wait_s)
                writer.write(chunk)
                await writer.drain()
