"""What the durable outbox costs on the happy path: two agents by turns against one site, one with and one without.

``python benchmarks/outbox.py --bundle DIR`` ends with one JSON line; times are from asking to answer, in milliseconds.
"""

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from common.commands.fleet import fleet
from common.config.settings import DeviceSettings, Model, Mqtt, Node, Outbox, Routing
from common.service.lifecycle import Stopping
from common.types import Tier
from device_agent.agent import Agent
from device_agent.build import start_agent

_BLOCK = 20
_TEXTS = ("a fine warm film", "dull and flat, with an empty plot", "the cast is moving and the music is bright")


def measure(bundle: str, folder: Path, *, requests: int, policy: str, sync: str) -> dict[str, object]:
    """Ask both agents by turns, in blocks, and give the times of each."""
    times: dict[str, list[float]] = {"memory": [], "disk": []}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        site = stack.enter_context(fleet(directory=Path(scratch), broker="mosquitto", site="bench", bundle=bundle))
        site.start(Tier.EDGE, "edge", {"DIMEE_LOG__URL": f"sqlite:///{scratch}/log.sqlite"})
        site.start(Tier.CLOUD, "cloud")
        site.wait_online("edge", "cloud")
        agents: dict[str, Agent] = {}
        for name in times:
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
        for block in range(requests // _BLOCK):
            for name, agent in agents.items():
                for place in range(_BLOCK):
                    started = time.perf_counter()
                    agent.classify(_TEXTS[(block + place) % len(_TEXTS)])
                    if block:  # the first warms up
                        times[name].append((time.perf_counter() - started) * 1000)
    found = {name: _summary(values) for name, values in times.items()}
    ratio = found["disk"]["median_ms"] / found["memory"]["median_ms"]
    return {"policy": policy, "sync": sync, **found, "median_ratio": round(ratio, 4)}


def _summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median_ms": round(statistics.median(ordered), 3),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 3),
        "requests": len(ordered),
    }


def main() -> None:
    """Read the options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--folder", type=Path, default=None, help="where the outbox lies: its disk is what counts")
    parser.add_argument("--requests", type=int, default=1000, help="per agent")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--sync", choices=("written", "accepted", "answered"), default="written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report = measure(
            options.bundle, Path(folder), requests=options.requests, policy=options.policy, sync=options.sync
        )
    print(json.dumps(report))  # noqa: T201 - a command


if __name__ == "__main__":
    main()
