"""The processes of a benchmark: started, spoken with, and their processor time counted."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from common.bench.parts import Part
from common.commands.fleet import running
from common.errors import CrashError

_Said = TypeVar("_Said")


class Process:
    """One part of a benchmark at the other end of two pipes; it ends with the stack."""

    def __init__(
        self,
        part: Part,
        directory: Path,
        stack: ExitStack,
        *,
        environment: Mapping[str, str] | None = None,
        command: tuple[str, ...] = ("-m", "common.bench"),
    ) -> None:
        self._name = getattr(part, "contestant", type(part).__name__)
        self._log = directory / f"{self._name}-{len(list(directory.iterdir()))}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIMEE_")}
        process = stack.enter_context(
            running(
                [sys.executable, *command, msgspec.json.encode(part).decode()],
                inherited | dict(environment or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(self._log.open("wb")),
            )
        )
        if process.stdin is None or process.stdout is None:
            raise AssertionError("it was started with pipes")
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        stack.callback(self._signal, signal.SIGKILL)  # the whole group: a server leaves its workers behind

    def tell(self, message: Any) -> None:
        """Write one line."""
        self._stdin.write(msgspec.json.encode(message) + b"\n")
        self._stdin.flush()

    def hear(self, kind: type[_Said]) -> _Said:
        """Read one line.

        Raises:
            CrashError: The process ended instead.
        """
        line = self._stdout.readline()
        if not line:
            self.raise_ended()
        return msgspec.json.decode(line, type=kind)

    def pause(self) -> None:
        """Stop the process and its children in their tracks: some servers poll while they idle."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)  # it was started in a session of its own

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def raise_ended(self) -> None:
        """Say what the process last said."""
        said = self._log.read_text(errors="replace").strip().splitlines()
        raise CrashError(f"the process of {self._name} ended: {said[-1] if said else 'it said nothing'}")


def children_cpu_s() -> float:
    """Sum the processor time that this process's descendants have used so far; 0 where the system does not tell."""
    return sum(map(cpu_s, _descendants(os.getpid())))


def cpu_s(pid: int) -> float:
    """Give the processor time that a process has used so far; 0 where it has ended or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            named = children.read_text(encoding="ascii").split()
        except OSError:
            continue  # the thread has ended
        for child in map(int, named):
            found += [child, *_descendants(child)]
    return found
