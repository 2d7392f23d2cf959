"""Progress of a stage: a bar on a terminal, plain log lines elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_LOGGER = logging.getLogger(__name__)
_LINES_EVERY_S = 20.0


class Progress(Protocol):
    """Is told how far a stage has come."""

    def step(self, done: int, total: int, loss: float) -> None:
        """One more step is taken."""


class TerminalProgress:
    """A bar with the loss and the time remaining."""

    def __init__(self, title: str) -> None:
        self._bar = Bar(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(title, total=None, loss=0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, done: int, total: int, loss: float) -> None:
        """One more step is taken."""
        self._bar.update(self._task, completed=done, total=total, loss=loss)


class LogProgress:
    """A log line every twenty seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._spoke_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def step(self, done: int, total: int, loss: float) -> None:
        """One more step is taken."""
        if done == total or time.monotonic() - self._spoke_at >= _LINES_EVERY_S:
            self._spoke_at = time.monotonic()
            _LOGGER.info("%s: step %d of %d, loss %.3f", self._title, done, total, loss)


def progress_for(title: str) -> TerminalProgress | LogProgress:
    """Choose by whether somebody watches stderr."""
    return TerminalProgress(title) if sys.stderr.isatty() else LogProgress(title)
