"""The field: brokers, fleets, servers and links, and every contestant's processes on them."""

import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import msgspec

from common.bench.parts import Drive, Link, Ready, Serve, Shape, Shaped, Turn, Turned
from common.bench.processes import Process, children_cpu_s
from common.commands.fleet import Fleet, fleet
from common.errors import CrashError, TransportError
from common.evaluation.machine import num_cores
from common.types import Tier

RIVALS = ("http-cloud", "mqtt-cloud", "in-process", "joint-rest", "pytorch-loop", "naive-mqtt", "ideal")
_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
_SCRIPTS = {  # torch stays out of the packages that devices get, and paho in the transport
    "pytorch-loop": _BENCHMARKS / "pytorch_loop.py",
    "naive-mqtt": _BENCHMARKS / "naive_mqtt.py",
}
_NEEDS = {"http-cloud": ("litserve",), "joint-rest": ("litserve",), "pytorch-loop": ("torch", "transformers")}
_TIERED = frozenset({"dimee", "mqtt-cloud"})
_SERVED = frozenset({"http-cloud", "joint-rest"})
_SERVER_LIMIT_S = 60.0
_MAX_BATCH = 16
_CLOSED_LOOP = {"DIMEE_DEVICE__BUDGET_MS": "20000", "DIMEE_DEVICE__RETRY_MS": "5000"}  # load must not look like loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all contestants have in common."""

    bundle: str
    policy: str
    texts: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Entrant:
    """A contestant with its processes: one per core, or one client where a server has the cores."""

    name: str
    drivers: list[Process]
    ready: Ready
    server: Process | None = None  # of others' making, paused between turns

    def take(self, turn: Turn) -> tuple[Turned, float]:
        """Give the turn to the first process; tell the processor seconds that it took, too."""
        return self._spread([turn])

    def take_on_all_cores(self, turn: Turn) -> tuple[Turned, float]:
        """Deal the turn's texts out to all processes."""
        share = len(self.drivers)
        in_flight = -(-turn.in_flight // share)
        parts = [msgspec.structs.replace(turn, texts=turn.texts[place::share]) for place in range(share)]
        rate_hz = None if turn.rate_hz is None else turn.rate_hz / share
        return self._spread(
            [
                msgspec.structs.replace(part, in_flight=in_flight, rate_hz=rate_hz, seed=turn.seed + place)
                for place, part in enumerate(parts)
                if part.texts
            ]
        )

    def _spread(self, turns: Sequence[Turn]) -> tuple[Turned, float]:
        if self.server is not None:
            self.server.resume()
        before = children_cpu_s()
        for driver, turn in zip(self.drivers, turns, strict=False):
            driver.tell(turn)
        turned = [driver.hear(Turned) for driver, _ in zip(self.drivers, turns, strict=False)]
        cpu_s = children_cpu_s() - before
        if self.server is not None:
            self.server.pause()
        answers = tuple(answer for each in turned for answer in each.answers)
        return Turned(answers=answers, elapsed_s=max(each.elapsed_s for each in turned)), cpu_s


@dataclass(slots=True, kw_only=True)
class Field:
    """Everything that runs on one broker."""

    ground: Ground
    directory: Path
    stack: ExitStack
    entrants: dict[str, Entrant] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # why, by contestant
    links: dict[str, Process] = field(default_factory=dict)
    server: Process | None = None

    def shape(self, links: Mapping[str, Link]) -> None:
        """Set the links ``lan`` and ``wan``."""
        for name, process in self.links.items():
            process.tell(links[name.partition("-")[0]])
            process.hear(Link)


@contextmanager
def open_field(ground: Ground, broker: str, names: Sequence[str], *, is_shaped: bool = False) -> Iterator[Field]:
    """Start dimee's tiers on a broker, the rivals' servers, and the contestants that are named.

    On a shaped field the device reaches the broker by the link ``lan``; the cloud reaches it, and cloud-only rivals
    reach the cloud, by links ``wan``.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dimee-bench-")))
        opened = Field(ground=ground, directory=directory, stack=stack)
        site = f"bench-{secrets.token_hex(4)}"
        tiers = None
        if _TIERED & set(names):
            tiers = stack.enter_context(fleet(directory=directory, broker=broker, site=site, bundle=ground.bundle))
            _start_tiers(opened, tiers, is_shaped=is_shaped)
        http_port = _start_server(opened, names, is_shaped=is_shaped)
        for name in names:
            _enter(opened, name, tiers, http_port)
        if opened.server is not None:
            opened.server.pause()
        yield opened


def _start_tiers(opened: Field, tiers: Fleet, *, is_shaped: bool) -> None:
    policy = {"DIMEE_ROUTING__POLICY": opened.ground.policy}
    log = {"DIMEE_LOG__URL": f"sqlite:///{opened.directory / 'log.sqlite'}"}
    far: dict[str, str] = {}
    if is_shaped:
        host, port = tiers.broker.host, tiers.broker.port
        opened.links["lan"] = Process(Shape(host=host, port=port), opened.directory, opened.stack)
        opened.links["wan"] = Process(Shape(host=host, port=port), opened.directory, opened.stack)
        far = {"DIMEE_MQTT__PORT": str(opened.links["wan"].hear(Shaped).port)}
    tiers.start(Tier.EDGE, f"{tiers.site}-edge", policy | log)
    tiers.start(Tier.CLOUD, f"{tiers.site}-cloud", policy | far)
    tiers.wait_online(f"{tiers.site}-edge", f"{tiers.site}-cloud")


def _start_server(opened: Field, names: Sequence[str], *, is_shaped: bool) -> int:
    """Start the rivals' server; 0 where nobody needs it or it cannot be had."""
    if not _SERVED & set(names) or find_spec("litserve") is None:
        return 0
    port = free_port()
    part = Serve(bundle=opened.ground.bundle, port=port, workers=num_cores(), max_batch=_MAX_BATCH)
    server = Process(part, opened.directory, opened.stack)
    wait_until_listening(server, port)
    opened.server = server
    if not is_shaped:
        return port
    link = opened.links["wan-http"] = Process(Shape(host="127.0.0.1", port=port), opened.directory, opened.stack)
    return link.hear(Shaped).port


def _enter(opened: Field, name: str, tiers: Fleet | None, http_port: int) -> None:
    lacking = [package for package in _NEEDS.get(name, ()) if find_spec(package) is None]
    script = _SCRIPTS.get(name)
    if lacking or (script is not None and not script.is_file()):
        opened.missing[name] = f"needs {', '.join(lacking)}" if lacking else "needs a checkout with benchmarks/"
        return
    ground = opened.ground
    part = Drive(
        contestant=name,
        bundle=ground.bundle,
        policy=ground.policy,
        http_port=http_port,
        broker_port=0 if tiers is None else tiers.broker.port,
        texts=ground.texts,
    )
    command = ("-m", "common.bench") if script is None else (str(script),)
    copies = 1 if name in _SERVED else num_cores()
    near = opened.links.get("lan") if name == "dimee" else None
    near_port = 0 if near is None else near.hear(Shaped).port
    is_device = tiers is not None and name in _TIERED
    drivers: list[Process] = []
    ready: list[Ready] = []
    try:
        for tier in (Tier.EDGE, Tier.CLOUD) if name == "naive-mqtt" else ():
            own = msgspec.structs.replace(part, tier=tier)
            Process(own, opened.directory, opened.stack, command=command).hear(Ready)
        for place in range(copies):
            environment = _device(opened, tiers, f"{name}-{place}", near_port) if tiers and is_device else {}
            drivers.append(Process(part, opened.directory, opened.stack, environment=environment, command=command))
            if is_device:
                ready.append(drivers[-1].hear(Ready))  # one by one: the time to the first answer counts
        ready += [driver.hear(Ready) for driver in drivers[len(ready) :]]
    except CrashError as exc:
        if name == "dimee":
            raise
        opened.missing[name] = str(exc)
        return
    server = opened.server if name in _SERVED else None
    opened.entrants[name] = Entrant(name=name, drivers=drivers, ready=ready[0], server=server)


def _device(opened: Field, tiers: Fleet, name: str, near_port: int) -> dict[str, str]:
    own = {
        "DIMEE_NODE__ID": f"{tiers.site}-{name}",
        "DIMEE_MODEL__BUNDLE": opened.ground.bundle,
        "DIMEE_ROUTING__POLICY": opened.ground.policy if name.startswith("dimee") else "cloud-only",
    }
    port = {"DIMEE_MQTT__PORT": str(near_port)} if near_port else {}
    return tiers.broker.environment(tiers.site) | own | port | _CLOSED_LOOP


def free_port() -> int:
    """Find a loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_listening(server: Process, port: int) -> None:
    """Return once the server accepts connections.

    Raises:
        TransportError: It takes too long.
    """
    deadline = time.monotonic() + _SERVER_LIMIT_S
    while time.monotonic() < deadline:
        if server.has_ended:
            server.raise_ended()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)  # nothing tells when a foreign process listens
        else:
            return
    raise TransportError(f"nothing listens on port {port} after {_SERVER_LIMIT_S:.0f} s")
