"""The shaped link: what is sent arrives, no sooner than the link allows."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from common.bench.parts import Link
from common.bench.proxy import LinkProxy


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends everything back, for one connection after another."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    while data := connection.recv(65536):
                        connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def _exchange(port: int, payload: bytes) -> tuple[bytes, float]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        started = time.monotonic()
        client.sendall(payload)
        client.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: client.recv(65536), b""))
        return received, time.monotonic() - started


def test_bytes_arrive_whole_and_are_counted(echo: tuple[str, int]) -> None:
    payload = bytes(range(256)) * 4000

    with LinkProxy(echo, Link()) as proxy:
        received, _ = _exchange(proxy.port, payload)

        assert received == payload
        assert proxy.bytes_up == proxy.bytes_down == len(payload)


def test_each_way_takes_the_delay(echo: tuple[str, int]) -> None:
    with LinkProxy(echo, Link(delay_ms=25)) as proxy:
        _, elapsed_s = _exchange(proxy.port, b"x")

    assert elapsed_s >= 0.05


def test_the_rate_up_is_kept(echo: tuple[str, int]) -> None:
    with LinkProxy(echo, Link(up_mbit=8)) as proxy:
        _, elapsed_s = _exchange(proxy.port, bytes(200_000))

    assert elapsed_s >= 0.2


def test_a_cut_breaks_the_connection_and_a_new_one_works(echo: tuple[str, int]) -> None:
    with LinkProxy(echo, Link()) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as client:
            client.sendall(b"a")
            assert client.recv(1) == b"a"
            proxy.cut()
            assert client.recv(1) == b""

        assert _exchange(proxy.port, b"again")[0] == b"again"


def test_a_refusing_proxy_closes_new_connections(echo: tuple[str, int]) -> None:
    with LinkProxy(echo, Link()) as proxy:
        proxy.refuse(is_refusing=True)

        with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as client:
            assert client.recv(1) == b""
