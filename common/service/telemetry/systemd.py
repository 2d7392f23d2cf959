"""Tells systemd that a service is up, what it does, and that it is not hung (sd_notify(3)); silent elsewhere."""

import logging
import os
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from common.service.telemetry.vitals import Vitals

_LOGGER = logging.getLogger(__name__)
_DEFAULT_INTERVAL_S = 10.0  # between looks at the broker's connection, where no watchdog asks for more


class Notifier:
    """Sends READY when entered, STOPPING when left, and in between a heartbeat for as long as no thread is hung."""

    def __init__(self, vitals: Vitals, environment: Mapping[str, str] = os.environ) -> None:
        self._vitals = vitals
        self._address = environment.get("NOTIFY_SOCKET", "")
        watchdog_us = int(environment.get("WATCHDOG_USEC", "0"))
        self._interval_s = watchdog_us / 3e6 if watchdog_us else _DEFAULT_INTERVAL_S
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="systemd-notify")

    def __enter__(self) -> Self:
        if self._address:
            self._send(f"READY=1\n{self._status()}")
            self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._address:
            self._stopping.set()
            self._thread.join()
            self._send("STOPPING=1")

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            hung = self._vitals.hung
            if hung:
                _LOGGER.error("threads %s are hung; without a heartbeat systemd restarts this service", hung)
                self._send(f"STATUS=hung: {', '.join(hung)}")
            else:
                self._send(f"WATCHDOG=1\n{self._status()}")

    def _status(self) -> str:
        vitals = self._vitals
        link = "connected" if vitals.is_connected() else "no broker"
        return f"STATUS={vitals.tier} {vitals.node}: {link}, revision {vitals.model_revision}"

    def _send(self, message: str) -> None:
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.connect(address)
                channel.sendall(message.encode())
        except OSError as exc:
            _LOGGER.warning("systemd is not told %r: %s", message.partition("\n")[0], exc)
