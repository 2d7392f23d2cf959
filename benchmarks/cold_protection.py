"""What TLS and sealing take when inference has emptied the caches: python benchmarks/cold_protection.py.

Every step is timed warm, and after a sum over 32 MB, which is what a segment's run leaves to the code of OpenSSL.
"""

import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.bench.security.attacks import REPLY_TOPIC, TOPIC, Ends
from common.bench.security.sites import EDGE, Premises
from common.model.bundle import SHIPPED

_BYTES = 6000  # hidden states of a short text
_TIMES = 300
_CACHES = np.ones(4_000_000)
_Step = Callable[[], object]


def micros(step: _Step, prepare: _Step, *, is_cold: bool) -> float:
    """Time a step at the lower third, where other processes have disturbed the least."""
    taken = []
    for _ in range(_TIMES):
        prepare()
        if is_cold:
            _CACHES.sum()
        started = time.perf_counter()
        step()
        taken.append((time.perf_counter() - started) * 1e6)
    return sorted(taken)[_TIMES // 3]


def connected(premises: Premises) -> tuple[socket.socket, socket.socket]:
    """Give both ends of a TLS connection as a node and its broker have it."""
    ends: list[socket.socket] = []
    nodes = premises.authority.folder / "nodes"
    contexts = {}
    for name, kind in (("mosquitto", ssl.PROTOCOL_TLS_SERVER), (EDGE, ssl.PROTOCOL_TLS_CLIENT)):
        contexts[name] = context = ssl.SSLContext(kind)
        context.load_cert_chain(nodes / name / "certificate.pem", nodes / name / "key.pem")
        context.load_verify_locations(nodes / name / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accept = lambda: ends.append(contexts["mosquitto"].wrap_socket(listening.accept()[0], server_side=True))  # noqa: E731
        thread = threading.Thread(target=accept)
        thread.start()
        near = contexts[EDGE].wrap_socket(
            socket.create_connection(listening.getsockname()), server_hostname="127.0.0.1"
        )
        thread.join()
    return near, ends[0]


def read(sock: socket.socket) -> None:
    """Read one message whole."""
    missing = _BYTES
    while missing:
        missing -= len(sock.recv(1 << 16))


def network(near: socket.socket, far: socket.socket, body: bytes) -> dict[str, tuple[_Step, _Step]]:
    """Give the steps of a connection, with what makes each possible."""
    unread: list[None] = []

    def clear() -> None:
        while unread:
            read(far)
            unread.pop()

    def send() -> None:
        near.sendall(body)
        unread.append(None)

    return {"send": (send, clear), "receive": (lambda: read(near), lambda: far.sendall(body))}


def sealing(ends: Ends, body: bytes) -> dict[str, tuple[_Step, _Step]]:
    """Give the steps of the sealed channel, with what makes each possible."""
    requests, replies = [ends.session.seal(TOPIC, body)], list[bytes]()
    grant = ends.table.open(TOPIC, requests.pop())[0].grant("r")
    return {
        "seal": (lambda: ends.session.seal(TOPIC, body), lambda: None),
        "open": (
            lambda: ends.table.open(TOPIC, requests.pop()),
            lambda: requests.append(ends.session.seal(TOPIC, body)),
        ),
        "seal a reply": (lambda: grant.seal(REPLY_TOPIC, "r", body[:300]), lambda: None),
        "open a reply": (
            lambda: ends.session.open(REPLY_TOPIC, replies.pop()),
            lambda: replies.append(grant.seal(REPLY_TOPIC, "r", body[:300])),
        ),
    }


def main() -> None:
    """Print microseconds, warm and cold."""
    body = os.urandom(_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        premises = Premises.make(Path(folder), SHIPPED)
        pairs = {"plain": socket.socketpair(), "TLS": connected(premises)}
        steps = {f"{kind} {name}": each for kind, pair in pairs.items() for name, each in network(*pair, body).items()}
        steps |= sealing(Ends(premises.authority), body)
        for name, (step, prepare) in steps.items():
            warm, cold = (micros(step, prepare, is_cold=is_cold) for is_cold in (False, True))
            print(f"{name:14} {warm:5.1f} us warm {cold:5.1f} us cold")  # noqa: T201
        for sock in (sock for pair in pairs.values() for sock in pair):
            sock.close()


if __name__ == "__main__":
    main()
