"""One thread that brings a node to what the site's rollout says, and keeps at it until it is there.

It looks at what is wanted and at what is, not at what happened, so a start, a cut and a change are one case.
"""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from common.errors import StoreError, TransportError, WireError
from common.model.rollout import Rollout, decode_rollout
from common.transport.contract import Delivery, Inbox, Transport
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)
_RETRY_S = 10.0  # after a cut; what was fetched stays
_TROUBLE_RETRY_S = 60.0  # after a full disk, or a fault of ours


class Follower(Protocol):
    """What a node does about a rollout."""

    def follow(self, rollout: Rollout, is_wanted: Callable[[], bool]) -> None:
        """Come nearer to what it says; ``is_wanted`` turns false when it is not the latest word any more.

        Raises:
            TransportError: Not now; it is worth another try soon.
            StoreError: The disk does not take it; somebody must act.
        """
        ...

    def trouble(self, words: str) -> None:
        """Say why it does not go on."""
        ...


class _Latest(Inbox):
    """Keeps the last message alone."""

    def __init__(self, wake: threading.Event) -> None:
        super().__init__(1)
        self.payload: bytes | None = None
        self._wake = wake

    def put(self, delivery: Delivery) -> bool:
        """Take the place of what came before; runs on the transport's thread."""
        self.payload = delivery.payload
        self._wake.set()
        return True


class Updater:
    """Follows the rollout while it is entered."""

    def __init__(self, transport: Transport, topics: Topics, follower: Follower) -> None:
        """Subscribe; the first rollout may come before the thread runs, and waits for it."""
        self._wake = threading.Event()
        self._latest = _Latest(self._wake)
        self._follower = follower
        self._is_leaving = False
        self._thread = threading.Thread(target=self._run, name="updates")
        transport.subscribe(topics.rollout, self._latest)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_leaving = True
        self._wake.set()
        self._thread.join()

    def wake(self) -> None:
        """Look again: something that matters has changed. From any thread."""
        self._wake.set()

    def _run(self) -> None:
        patience_s: float | None = None
        while self._wake.wait(patience_s) or not self._is_leaving:
            self._wake.clear()
            if self._is_leaving:
                return
            payload = self._latest.payload
            patience_s = None if payload is None else self._follow(payload)

    def _follow(self, payload: bytes) -> float | None:
        """Follow one rollout; give the seconds until another try, or None when nothing is left to do."""
        try:
            rollout = decode_rollout(payload)
            self._follower.follow(rollout, lambda: not self._is_leaving and self._latest.payload is payload)
        except WireError as exc:
            _LOGGER.warning("%s", exc)
        except TransportError as exc:
            if not self._is_leaving:
                _LOGGER.warning("the update goes on in %.0f s: %s", _RETRY_S, exc)
            return _RETRY_S
        except StoreError as exc:
            self._follower.trouble(f"stuck: {exc}")
            _LOGGER.error("the update waits: %s", exc)  # noqa: TRY400 - the disk's trouble, no fault of ours
            return _TROUBLE_RETRY_S
        except Exception as exc:  # an update must never take a node down that answers
            self._follower.trouble(f"stuck: {exc!r}")
            _LOGGER.exception("the update failed; it is tried again in %.0f s", _TROUBLE_RETRY_S)
            return _TROUBLE_RETRY_S
        return None
