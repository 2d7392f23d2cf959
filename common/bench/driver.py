"""A contestant's process: takes turns from stdin, tells of them on stdout."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from common.bench.contestants import Dimee, Ideal, InProcess, JointRest
from common.bench.http_cloud import HttpClient
from common.bench.load import Contestant, run_turn
from common.bench.parts import Drive, Ready, Turn
from common.config.load import load
from common.config.settings import DeviceSettings
from common.errors import ConfigError
from common.model.bundle import open_bundle
from common.service.lifecycle import Stopping, keep_loaded
from device_agent.build import start_agent

_CONNECT_LIMIT_S = 10.0
_HTTP_IN_FLIGHT = 32


def drive(part: Drive) -> None:
    """Be a contestant until stdin ends."""
    with _contestant(part) as contestant:
        answer_turns(contestant, part)


def answer_turns(contestant: Contestant, part: Drive) -> None:
    """Answer one text, say so, and take turns until stdin ends."""
    run_turn(contestant, Turn(texts=part.texts[:1]))
    say_ready()
    for line in sys.stdin.buffer:
        _say(run_turn(contestant, msgspec.json.decode(line, type=Turn)))


def say_ready() -> None:
    """Say that this process has done what it will be asked for."""
    _say(Ready(first_answer_s=_age_s(), resident_mb=resident_mb(os.getpid())))


def resident_mb(pid: int) -> float:
    """Read a process's resident memory; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    line = next((line for line in status.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0")
    return int(line.split()[1]) / 1024


@contextmanager
def _contestant(part: Drive) -> Iterator[Contestant]:
    match part.contestant:
        case "dimee" | "mqtt-cloud":
            with ExitStack() as stack:
                settings = load(DeviceSettings, None)
                agent = stack.enter_context(start_agent(settings, Stopping()))
                agent.transport.wait_connected(_CONNECT_LIMIT_S)
                keep_loaded()  # as ``dimee device run`` does
                yield Dimee(agent)
        case "http-cloud":
            yield HttpClient("127.0.0.1", part.http_port, _HTTP_IN_FLIGHT)
        case "in-process":
            yield InProcess(open_bundle(part.bundle))
        case "joint-rest":
            cloud = HttpClient("127.0.0.1", part.http_port, _HTTP_IN_FLIGHT)
            yield JointRest(open_bundle(part.bundle), part.policy, cloud)
        case "ideal":
            yield Ideal(open_bundle(part.bundle), part.policy, part.texts)
        case unknown:
            raise ConfigError(f"contestant {unknown!r} is not known")


def _say(message: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


def _age_s() -> float:
    """Seconds since this process was started; 0 where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
