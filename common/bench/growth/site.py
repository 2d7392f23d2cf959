"""A site under test: Mosquitto, edges, cloud workers and a crowd of light devices, each a process."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from common.bench.driver import resident_mb
from common.bench.field import Ground
from common.bench.growth.machine import core_time, foreign_cores
from common.bench.growth.steps import CROWD, Setup, Step, Usage, measured
from common.bench.parts import Crowd, Flow, Flowed, Gather
from common.bench.processes import Process, cpu_s
from common.commands.fleet import Fleet, fleet
from common.types import Tier

_SITE = "growth"
_FIRST_EDGE = "edge-1"
_MOST_REQUESTS = 20_000  # of a step
_WARM_UP_S = 0.5


class Site:
    """Takes one step after another."""

    def __init__(self, setup: Setup, tiers: Fleet, crowd: Process) -> None:
        self._setup = setup
        self._crowd = crowd
        pids = {"broker": tiers.broker.pid, CROWD: crowd.pid}
        pids |= {node: process.pid for node, process in tiers.processes.items()}
        self._pids = {name: pid for name, pid in pids.items() if pid is not None}
        self._devices = 0
        self._num_steps = 0

    def step(
        self,
        *,
        seconds: float,
        devices: int = 100,
        rate_hz: float | None = None,
        in_flight: int = 64,
        tokens: int | None = None,
    ) -> Step:
        """Put a load on the site, in a closed loop where no rate is given."""
        if devices != self._devices:
            self._crowd.tell(Gather(devices=devices))
            self._crowd.hear(Gather)
            self._devices = devices
        self._num_steps += 1
        flow = Flow(
            seconds=seconds,
            most=_MOST_REQUESTS,
            rate_hz=rate_hz,
            in_flight=in_flight,
            tokens=tokens,
            seed=self._num_steps,
        )
        setup = msgspec.structs.replace(self._setup, devices=devices, rate_hz=rate_hz, tokens=tokens)
        return measured(setup, *self._watched(flow))

    def _watched(self, flow: Flow) -> tuple[Flowed, Usage]:
        before, used_before = core_time(), {name: cpu_s(pid) for name, pid in self._pids.items()}
        self._crowd.tell(flow)
        flowed = self._crowd.hear(Flowed)
        after, used = core_time(), {name: cpu_s(pid) for name, pid in self._pids.items()}
        lasted_s = after.at - before.at
        cores = {name: (used[name] - used_before[name]) / lasted_s for name in self._pids}
        idle = before.idle_cores(after)
        return flowed, Usage(
            lasted_s=lasted_s,
            cores=cores,
            idle_cores=idle,
            foreign_cores=foreign_cores(idle, sum(cores.values())),
            edge_mb=resident_mb(self._pids[_FIRST_EDGE]),
        )


@contextmanager
def open_site(ground: Ground, *, edges: int = 1, clouds: int = 1) -> Iterator[Site]:
    """Start everything, and warm it up.

    Raises:
        ConfigError: Mosquitto is not installed, or a tier does not start.
        CrashError: The crowd does not start.
    """
    with tempfile.TemporaryDirectory(prefix="dimee-growth-") as folder:
        directory = Path(folder)
        with fleet(directory=directory, broker="mosquitto", site=_SITE, bundle=ground.bundle) as tiers:
            _start_tiers(tiers, ground.policy, edges, clouds)
            part = Crowd(
                host=tiers.broker.host,
                port=tiers.broker.port,
                site=_SITE,
                bundle=ground.bundle,
                policy=ground.policy,
                texts=ground.texts,
            )
            site = Site(Setup(edges=edges, clouds=clouds), tiers, Process(part, directory, tiers.stack))
            site.step(seconds=_WARM_UP_S)  # first runs are slow
            yield site


def _start_tiers(tiers: Fleet, policy: str, edges: int, clouds: int) -> None:
    own = {"DIMEE_ROUTING__POLICY": policy}
    log = {"DIMEE_LOG__URL": f"sqlite:///{tiers.directory / 'log.sqlite'}"}
    for number in range(1, edges + 1):
        recorder = {} if number == 1 else {"DIMEE_LOG__IS_RECORDER": "false"}
        tiers.start(Tier.EDGE, f"edge-{number}", own | log | recorder)
    for number in range(1, clouds + 1):
        tiers.start(Tier.CLOUD, f"cloud-{number}", own)
    tiers.wait_online(*tiers.processes)
