"""An uplink that falls from 20 Mbit/s to 0.5 and comes back: who keeps the time, with and without adaptation.

``python benchmarks/falling_uplink.py --bundle DIR --texts dev.tsv`` ends with one JSON line. Real processes: Mosquitto,
an edge, a cloud worker, and in this process a device that reaches the broker through a link in user space. Every phase
asks the same texts, so the points lost are those against the first phase without adaptation, when nothing was late.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from common.bench.parts import Link as Rate
from common.bench.proxy import LinkProxy
from common.commands.fleet import Fleet, fleet
from common.config.settings import DeviceLimits, DeviceSettings, Link, Model, Mqtt, Node, Routing, Uplink
from common.evaluation.labelled import read_texts
from common.evaluation.metrics import Bootstrap, interval
from common.model.bundle import open_bundle
from common.service.lifecycle import Stopping
from common.types import Answer, Reason, Tier
from device_agent.agent import Agent
from device_agent.build import start_agent

_DELAY_MS = 5.0
_MBITS = (20.0, 0.5, 20.0)
_WARM_UP = 20


def measure(
    site: Fleet, options: argparse.Namespace, texts: list[str], *, is_adaptive: bool
) -> list[tuple[dict[str, Any], list[str | None]]]:
    """Play all phases with one device; gives what each was like, and its answers."""
    with LinkProxy((site.broker.host, site.broker.port), Rate(delay_ms=_DELAY_MS, up_mbit=_MBITS[0])) as proxy:
        settings = DeviceSettings(
            node=Node(id=f"device-{'adaptive' if is_adaptive else 'fixed'}"),
            mqtt=Mqtt(host="127.0.0.1", port=proxy.port, site=site.site),
            model=Model(bundle=options.bundle),
            routing=Routing(policy=options.policy),
            device=DeviceLimits(budget_ms=options.budget_ms, max_in_flight=1024),
            link=Link(),
            uplink=Uplink(is_adaptive=is_adaptive),
        )
        with start_agent(settings, Stopping()) as agent:
            agent.transport.wait_connected(10)
            for text in texts[:_WARM_UP]:
                agent.classify(text)
            found = []
            for mbit in _MBITS:
                proxy.link = Rate(delay_ms=_DELAY_MS, up_mbit=mbit)
                answers = _phase(agent, options, texts)
                found.append((_told(mbit, answers, options.budget_ms), [answer.label for answer in answers]))
            return found


def _phase(agent: Agent, options: argparse.Namespace, texts: list[str]) -> list[Answer]:
    draw = random.Random(1)  # noqa: S311 - arrivals, no secret
    futures: list[Future[Answer]] = []
    started = arrival = time.perf_counter()
    while arrival - started < options.seconds:
        time.sleep(max(0.0, arrival - time.perf_counter()))
        futures.append(agent.submit(texts[len(futures) % len(texts)]))
        arrival += draw.expovariate(options.rate_hz)
    return [future.result() for future in futures]


def _told(mbit: float, answers: list[Answer], budget_ms: float) -> dict[str, Any]:
    asked = [answer for answer in answers if answer.attempts]
    late = sum(answer.reason in {Reason.DEGRADED, Reason.FAILED} or answer.total_ms > budget_ms for answer in answers)
    sent = [hop for answer in answers for hop in answer.hops[1:2] if hop.codec]  # as the device's messages came in
    return {
        "mbit": mbit,
        "requests": len(answers),
        "escalated": len(asked),
        "kept_share": round(1 - late / len(answers), 4),
        "kept_share_of_escalated": round(1 - late / max(1, len(asked)), 4),
        "p95_ms": round(statistics.quantiles([answer.total_ms for answer in answers], n=20)[-1], 1),
        "bytes_per_message": round(statistics.mean([hop.received_bytes for hop in sent] or [0])),
        "forms": dict(Counter(f"{hop.codec} {hop.received_width}" for hop in sent).most_common()),
        "switches": sum(one.received_width != other.received_width for one, other in pairwise(sent)),
    }


def _lost(labels: list[str], reference: list[str | None], answers: list[str | None]) -> dict[str, Any]:
    """Accuracy, and the points lost against other answers to the same texts."""
    right = np.array(
        [[answer == label for answer, label in zip(each, labels, strict=False)] for each in (reference, answers)]
    )
    share = right.mean(axis=1)
    resampled = Bootstrap(right.shape[1]).means(right.T.astype(np.float64))
    ends = interval(100 * (resampled[:, 0] - resampled[:, 1]))
    return {
        "accuracy": round(float(share[1]), 4),
        "lost_points": round(100 * float(share[0] - share[1]), 2),
        "interval": [round(ends.low, 2), round(ends.high, 2)],
    }


def main() -> None:
    """Read the options, measure by turns, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True, help="a bundle with thin links")
    parser.add_argument("--texts", type=Path, required=True, help="labelled texts to ask")
    parser.add_argument("--policy", default="default")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the three phases")
    parser.add_argument("--rate-hz", type=float, default=25.0, help="mean of the arrivals")
    parser.add_argument("--budget-ms", type=float, default=300.0)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    inputs, classes = read_texts(bundle, options.texts)
    texts = [text for text, _ in inputs]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        site = stack.enter_context(
            fleet(directory=Path(scratch), broker="mosquitto", site="bench", bundle=options.bundle)
        )
        policy = {"DIMEE_ROUTING__POLICY": options.policy}
        site.start(Tier.EDGE, "edge", policy | {"DIMEE_LOG__URL": f"sqlite:///{scratch}/log.sqlite"})
        site.start(Tier.CLOUD, "cloud", policy)
        site.wait_online("edge", "cloud")
        found = {name: measure(site, options, texts, is_adaptive=name == "adaptive") for name in ("fixed", "adaptive")}
    labels = [bundle.manifest.labels[place] for place in classes]
    _, reference = found["fixed"][0]
    phases = {
        name: [told | _lost(labels, reference, answers) for told, answers in each] for name, each in found.items()
    }
    print(json.dumps({"budget_ms": options.budget_ms, "rate_hz": options.rate_hz, **phases}))  # noqa: T201


if __name__ == "__main__":
    main()
