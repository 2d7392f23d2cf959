"""What the nemesis can do; a fault is begun, held and ended, and then everything must work again."""

import contextlib
import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.processes import Fleet
from tests.chaos.stranger import Stranger


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]
    restarted: str = ""  # the process that comes back at the end


class Faults:
    """Makes faults of every kind on one fleet."""

    def __init__(
        self, fleet: Fleet, stranger: Stranger, rng: random.Random, *, shims: dict[str, Path], ballast: bool
    ) -> None:
        self._fleet = fleet
        self._stranger = stranger
        self._random = rng
        self._shims = shims
        self.kinds: dict[str, Callable[[], Fault]] = {
            **{f"kill_{name}": self._killer(name, signal.SIGKILL) for name in ("edge1", "edge2", "cloud1", "broker")},
            "kill_device": lambda: self._kill(self._device(), signal.SIGKILL, "kill_device"),
            "stop_device": lambda: self._kill(self._device(), signal.SIGTERM, "stop_device"),
            "stop_edge1": self._killer("edge1", signal.SIGTERM),
            "pause_edge": lambda: self._pause(self._random.choice(("edge1", "edge2", "cloud1"))),
            "cut": lambda: self._link("cut", is_cut=True),
            "partition": self._partition,
            "half_open": lambda: self._link("half_open", is_half_open=True),
            "slow_link": lambda: self._link("slow_link", latency_s=0.3),
            "narrow_link": lambda: self._link("narrow_link", bytes_per_s=20_000.0),
            "reset": self._reset,
            "duplicates": lambda: self._say("duplicates", lambda: stranger.repeat(300)),
            "reordered": lambda: self._say("reordered", lambda: stranger.reorder(200)),
            "mutated": lambda: self._say("mutated", lambda: stranger.mutate(300)),
            "oversized": lambda: self._say("oversized", lambda: stranger.oversize(8)),
            "flood": lambda: self._say("flood", lambda: stranger.flood(1500)),
        }
        if shims:
            self.kinds["clock_jump"] = self._clock_jump
            self.kinds["slow_disk"] = self._slow_disk
        if ballast:
            self.kinds["full_disk"] = self._full_disk

    def _device(self) -> str:
        return self._random.choice(self._fleet.devices)

    def _killer(self, name: str, number: signal.Signals) -> Callable[[], Fault]:
        return lambda: self._kill(name, number, f"{'kill' if number is signal.SIGKILL else 'stop'}_{name}")

    def _kill(self, name: str, number: signal.Signals, kind: str) -> Fault:
        process = self._fleet.processes[name]

        def begin() -> None:
            self._fleet.down.add(name)
            process.kill() if number is signal.SIGKILL else process.stop()

        def end() -> None:
            process.start()
            self._fleet.down.discard(name)

        return Fault(name=kind, begin=begin, end=end, restarted=name)

    def _pause(self, name: str) -> Fault:
        def send(number: signal.Signals) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._fleet.processes[name].pid, number)

        return Fault(name="pause_edge", begin=lambda: send(signal.SIGSTOP), end=lambda: send(signal.SIGCONT))

    def _link(self, kind: str, **changes: float | bool) -> Fault:
        proxy = self._fleet.proxies[self._random.choice(list(self._fleet.proxies))]

        def begin() -> None:
            for name, value in changes.items():
                setattr(proxy.link, name, value)
            if changes.get("is_cut"):
                proxy.drop()

        return Fault(name=kind, begin=begin, end=proxy.heal)

    def _partition(self) -> Fault:
        proxies = self._random.sample(list(self._fleet.proxies.values()), k=3)

        def begin() -> None:
            for proxy in proxies:
                proxy.link.is_cut = True
                proxy.drop()

        def end() -> None:
            for proxy in proxies:
                proxy.heal()

        return Fault(name="partition", begin=begin, end=end)

    def _reset(self) -> Fault:
        proxy = self._fleet.proxies[self._random.choice(list(self._fleet.proxies))]
        return Fault(name="reset", begin=lambda: proxy.drop(is_reset=True), end=_nothing)

    def _say(self, kind: str, begin: Callable[[], None]) -> Fault:
        return Fault(name=kind, begin=begin, end=_nothing)

    def _clock_jump(self) -> Fault:
        device, offset_s = self._device(), self._random.choice((-7200.0, -60.0, 60.0, 86400.0))
        shim = self._shims[device]
        return Fault(
            name="clock_jump", begin=lambda: set_shim(shim, clock_offset_s=offset_s), end=lambda: set_shim(shim)
        )

    def _slow_disk(self) -> Fault:
        shim = self._shims[self._device()]
        return Fault(name="slow_disk", begin=lambda: set_shim(shim, sync_delay_s=0.25), end=lambda: set_shim(shim))

    def _full_disk(self) -> Fault:
        ballast = self._fleet.outbox(self._device()).parent / "ballast"

        def begin() -> None:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        return Fault(name="full_disk", begin=begin, end=lambda: ballast.unlink(missing_ok=True))


def _nothing() -> None:
    """End nothing: the fault was over at once."""


def set_shim(path: Path, *, clock_offset_s: float = 0.0, sync_delay_s: float = 0.0) -> None:
    """Tell a preloaded process how its clock and disk are from now on."""
    with path.open("r+b") as file:
        file.write(struct.pack("dd", clock_offset_s, sync_delay_s))


def build_shim(directory: Path) -> Path | None:
    """Compile the shim; None where there is no C compiler."""
    target = directory / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(target), str(Path(__file__).with_name("shim.c")), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return target


@contextmanager
def small_disks(folders: list[Path]) -> Iterator[bool]:
    """Mount a small tmpfs on each folder; tells whether that was allowed."""
    mounted: list[Path] = []
    try:
        for folder in folders:
            folder.mkdir(exist_ok=True)
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], check=False, capture_output=True
            )
            if done.returncode == 0:
                mounted.append(folder)
        yield len(mounted) == len(folders)
    finally:
        for folder in mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def pause(seconds: float) -> None:
    """Let a fault last."""
    time.sleep(seconds)
