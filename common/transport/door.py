"""Takes clients in for the embedded broker: only MQTT 3.1.1, and with an access list by certificate alone."""

import asyncio
import logging
import socket
from typing import Any

from amqtt.adapters import StreamWriterAdapter
from amqtt.errors import AMQTTError
from amqtt.mqtt.connect import ConnectPacket

from common.transport.access import AccessList

_LOGGER = logging.getLogger(__name__)
LISTENER = "default"
_CLOSE_LIMIT_S = 2.0
_OPENING_LIMIT_S = 5.0
_PROTOCOL_NAME = b"\x00\x04MQTT"
_LEVEL_V311 = 4
_MAX_HEADER_BYTES = 5
VERSION_REFUSED = bytes([0x20, 2, 0, 1])  # CONNACK: unacceptable protocol version


class Door:
    """Takes clients in for a broker, and puts them out at the end."""

    def __init__(self, broker: Any, access: AccessList | None) -> None:
        """Prepare; with an access list every client is its certificate's name, whatever it calls itself."""
        self._broker = broker
        self._access = access
        self._clients: dict[asyncio.Task[Any] | None, asyncio.StreamWriter] = {}

    async def take_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client to its end."""
        # asyncio does this only for sockets that name their protocol, and accepted ones do not
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients[asyncio.current_task()] = writer
        try:
            opening = await _opening(reader)
            if opening is None or opening[-1] != _LEVEL_V311:
                writer.write(VERSION_REFUSED)
                return
            client = _Replayed(opening, reader)
            if self._access is not None:
                named = await _named(client, certified_name(writer), self._access)
                if named is None:
                    return
                client = _Replayed(named, reader)
            await self._broker.external_connected(client, _Adapter(writer), LISTENER)
        finally:
            writer.close()  # amqtt leaves a client hanging whose topic it refused
            del self._clients[asyncio.current_task()]

    async def clear(self) -> None:
        """Close every connection and give the clients' tasks a moment to see it."""
        tasks = [task for task in self._clients if task is not None]
        for writer in self._clients.values():
            writer.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_LIMIT_S)


class _Adapter(StreamWriterAdapter):  # type: ignore[misc]
    def put_out(self) -> None:
        """Close at once, so that the reader ends too: amqtt waits for ever for one that it cancelled in vain."""
        self._writer.transport.abort()


def certified_name(writer: asyncio.StreamWriter) -> str | None:
    """Give the name in a client's certificate; None where it could mean several users of an access list."""
    certificate = writer.get_extra_info("peercert") or {}
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 and not set(names[0]) & set("+#/\0") else None


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


async def _named(client: "_Replayed", name: str | None, access: AccessList) -> bytes | None:
    """Read CONNECT and write it anew with the certificate's name; without its will where the name may not say it.

    None when it is no CONNECT, or comes too slowly, or the certificate names nobody.
    """
    if name is None:
        _LOGGER.warning("refused a client whose certificate names no node")
        return None
    try:
        async with asyncio.timeout(_OPENING_LIMIT_S):
            connect = await ConnectPacket.from_stream(client)
    except (TimeoutError, asyncio.IncompleteReadError, OSError, AMQTTError, UnicodeDecodeError):
        return None
    header, payload = connect.variable_header, connect.payload
    payload.client_id = name
    if header.will_flag and not access.may_publish(name, payload.will_topic or ""):
        _LOGGER.warning("took the last will from %s, which may not publish to %.80r", name, payload.will_topic)
        header.will_flag = header.will_retain_flag = False
        header.will_qos = 0
    renamed: bytes = connect.to_bytes()
    return renamed


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
