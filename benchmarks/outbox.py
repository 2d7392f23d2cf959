"""What the durable outbox costs on the happy path: two agents by turns against one site, one with and one without.

``python benchmarks/outbox.py --bundle DIR`` ends with one JSON line; times are from asking to answer, in milliseconds.
Ratios are of neighbouring blocks, disk to memory, so that other load on the machine meets both: median and quartiles.
``cpu`` is processor time of the whole process per request, with what follows it: receipts, syncs, forgetting.

``--parts`` measures instead what an answer waits for, in microseconds of the thread's processor time, which other load
disturbs least: each after 8 MB were read, for between two inferences the outbox is out of the processor's caches.
"""

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from common.commands.fleet import fleet
from common.config.settings import DeviceSettings, Model, Mqtt, Node, Outbox, Routing
from common.service.lifecycle import Stopping
from common.store.promises import Promised
from common.types import Tier
from device_agent.agent import Agent
from device_agent.build import start_agent
from device_agent.disk_outbox import DiskOutbox
from device_agent.outbox import MemoryOutbox

_BLOCK = 50
_CALM_S = 0.2  # longer than the outbox waits before it syncs
_TEXTS = ("a fine warm film", "dull and flat, with an empty plot", "the cast is moving and the music is bright")


class Block(NamedTuple):
    """Requests asked one after another."""

    times_ms: list[float]
    cpu_ms: float  # per request


def measure(bundle: str, folder: Path, *, requests: int, policy: str, sync: str) -> dict[str, object]:
    """Ask both agents by turns, in blocks, and give the times of each."""
    blocks: dict[str, list[Block]] = {"memory": [], "disk": []}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        site = stack.enter_context(fleet(directory=Path(scratch), broker="mosquitto", site="bench", bundle=bundle))
        site.start(Tier.EDGE, "edge", {"DIMEE_LOG__URL": f"sqlite:///{scratch}/log.sqlite"})
        site.start(Tier.CLOUD, "cloud")
        site.wait_online("edge", "cloud")
        agents: dict[str, Agent] = {}
        for name in blocks:
            settings = DeviceSettings(
                node=Node(id=name),
                mqtt=Mqtt(host=site.broker.host, port=site.broker.port, site=site.site),
                model=Model(bundle=bundle),
                routing=Routing(policy=policy),
                outbox=msgspec.convert(
                    {"path": str(folder / "outbox.sqlite") if name == "disk" else None, "sync": sync}, Outbox
                ),
            )
            agents[name] = stack.enter_context(start_agent(settings, Stopping()))
            agents[name].transport.wait_connected(10)
        for number in range(requests // _BLOCK):
            for name in sorted(agents, reverse=number % 2 == 0):  # each goes first in every other round
                block = _ask(agents[name])
                if number:  # the first warms up
                    blocks[name].append(block)
    found = {name: _summary(values) for name, values in blocks.items()}
    pairs = list(zip(blocks["disk"], blocks["memory"], strict=True))
    wall = [statistics.median(disk.times_ms) / statistics.median(memory.times_ms) for disk, memory in pairs]
    cpu = [disk.cpu_ms / memory.cpu_ms for disk, memory in pairs]
    return {"policy": policy, "sync": sync, **found, "median_ratio": _quartiles(wall), "cpu_ratio": _quartiles(cpu)}


def parts(folder: Path, *, requests: int) -> dict[str, float]:
    """Give the median microseconds of accepting and finishing with the outbox on disk and in memory."""
    weights = np.ones(2_000_000, np.float32)
    promised = [Promised(request_id=f"{n:024x}", created_at=1.0, deadline=2.0, text=_TEXTS[0]) for n in range(requests)]
    record, found = bytes(450), {}
    with DiskOutbox(folder / "parts", sync="written", max_remembered=1, on_crash=_nothing) as disk:
        for name, outbox in (("memory", MemoryOutbox()), ("disk", disk)):
            steps = {
                "accept": outbox.accept,
                "finish": lambda one, outbox=outbox: outbox.finish(one, record, _nothing),
            }
            for step, run in steps.items():
                spent = []
                for one in promised:
                    weights.sum()
                    began = time.thread_time_ns()
                    run(one)
                    spent.append((time.thread_time_ns() - began) / 1000)
                found[f"{name}_{step}_us"] = round(statistics.median(spent), 1)
    return found


def _nothing() -> None:
    """Release nobody."""


def _ask(agent: Agent) -> Block:
    began = time.process_time()
    times = []
    for place in range(_BLOCK):
        started = time.perf_counter()
        agent.classify(_TEXTS[place % len(_TEXTS)])
        times.append((time.perf_counter() - started) * 1000)
    agent.wait_recorded(10)
    time.sleep(_CALM_S)
    return Block(times, (time.process_time() - began) * 1000 / _BLOCK)


def _quartiles(ratios: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"median": round(middle, 4), "quartile_1": round(low, 4), "quartile_3": round(high, 4)}


def _summary(blocks: list[Block]) -> dict[str, float]:
    ordered = sorted(one for block in blocks for one in block.times_ms)
    return {
        "median_ms": round(statistics.median(ordered), 3),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 3),
        "cpu_ms": round(statistics.median(block.cpu_ms for block in blocks), 3),
        "requests": len(ordered),
    }


def main() -> None:
    """Read the options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="shipped")
    parser.add_argument("--folder", type=Path, default=None, help="where the outbox lies: its disk is what counts")
    parser.add_argument("--requests", type=int, default=1000, help="per agent")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--sync", choices=("written", "accepted", "answered"), default="written")
    parser.add_argument("--parts", action="store_true", help="measure what an answer waits for, alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report: object = (
            parts(Path(folder), requests=options.requests)
            if options.parts
            else measure(
                options.bundle, Path(folder), requests=options.requests, policy=options.policy, sync=options.sync
            )
        )
    print(json.dumps(report))  # noqa: T201 - a command


if __name__ == "__main__":
    main()
