"""How a process settles down once it has started, and how it is told to stop."""

import gc
import signal
import threading
from types import FrameType

from common.errors import DimeeError

_YOUNG_OBJECTS = 20_000


def keep_loaded() -> None:
    """Let the garbage collector pass over all that the start has loaded, for it lives as long as the process.

    A full collection would walk through it while every thread waits: 12 ms on a device, 30 ms on an edge. A request
    leaves no cycles behind, so the young are looked at once in some hundred requests and not once in a few.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


class Stopping:
    """One flag for a whole process: signals, crashes and refusals raise it."""

    def __init__(self) -> None:
        self.error: DimeeError | None = None
        self._event = threading.Event()

    def __call__(self, error: DimeeError | None = None) -> None:
        """Ask the process to stop; the first error is kept."""
        self.error = self.error or error
        self._event.set()

    @property
    def is_asked(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def wait(self, limit_s: float | None = None) -> bool:
        """Wait until somebody asks; say whether they did."""
        return self._event.wait(limit_s)

    def on_signals(self) -> None:
        """Let SIGINT and SIGTERM ask; a second one kills as usual."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self()

    def raise_error(self) -> None:
        """Raise the error that stopped the process, if one did."""
        if self.error is not None:
            raise self.error
