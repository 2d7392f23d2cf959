"""The tail that queueing alone makes at half load: ``python benchmarks/tail_limit.py --input dev.tsv``.

A simulation of the benchmark's own site: a device for each of two cores, one edge and one cloud worker, each first
come, first served, on cores that are shared evenly among those who work. A text costs what its segments take here, and
nothing else: no message, no other thread, no time slice. What such a site cannot keep, no pipeline on these cores can.
"""

import argparse
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.bench.contestants import Routes
from common.inputs.examples import read_examples
from common.inputs.text import TextEncoder
from common.model.bundle import SHIPPED, Bundle, open_bundle
from common.model.manifest import TOKENIZER_FILE
from common.model.segments import open_embedding, open_layers

_CORES = 2
_RUNS = 5
_ARRIVALS = 20_000
_SEEDS = 5
_ROUNDING_MS = 1e-9

Stages = tuple[float, ...]  # milliseconds on each tier, from the device on


@dataclass(slots=True)
class Server:
    """One process: what waits with its time of arrival, and what is left of the first of it."""

    queue: deque[tuple[float, Stages]] = field(default_factory=deque)
    left_ms: float = 0.0

    def take(self, arrived_at: float, stages: Stages) -> None:
        """Let a text wait for its turn."""
        self.queue.append((arrived_at, stages))
        if len(self.queue) == 1:
            self.left_ms = stages[0]


def measure(bundle: Bundle, policy: str, texts: Sequence[str]) -> list[Stages]:
    """Time what each text runs on each tier, the least of some runs."""
    depths = Routes(bundle, policy, tuple(texts)).depths
    encoder = TextEncoder(bundle.path(TOKENIZER_FILE), bundle.manifest.max_tokens)
    embedding, segments = open_embedding(bundle), open_layers(bundle, bundle.manifest.num_layers)
    found = []
    for text in texts:
        encoded = encoder.encode(text)
        runs = []
        for _ in range(_RUNS):
            marks = [time.thread_time()]
            hidden = embedding.run(encoded.input_ids, encoded.attention_mask, encoded.token_type_ids)
            for segment in segments:
                if segment.span.end <= depths[text]:
                    hidden = segment.run(hidden, encoded.attention_mask).hidden_states
                    marks.append(time.thread_time())
            runs.append([(end - start) * 1000 for start, end in itertools.pairwise(marks)])
        found.append(tuple(map(min, zip(*runs, strict=True))))
    return found


class Site:
    """A device per core, an edge and a cloud worker."""

    def __init__(self) -> None:
        self.devices = [Server() for _ in range(_CORES)]
        self._edge, self._cloud = Server(), Server()
        self.latencies: list[float] = []  # milliseconds

    def busy(self) -> list[Server]:
        """Name those who work now."""
        return [server for server in (*self.devices, self._edge, self._cloud) if server.queue]

    def work(self, busy: Sequence[Server], now: float, spent_ms: float) -> None:
        """Take time off the work of those who are busy, and hand on what is done."""
        for server in busy:
            server.left_ms -= spent_ms
            if server.left_ms < _ROUNDING_MS:
                self._hand_on(server, now)

    def _hand_on(self, server: Server, now: float) -> None:
        arrived_at, stages = server.queue.popleft()
        if server.queue:
            server.left_ms = server.queue[0][1][0]
        if stages[1:]:
            (self._edge if server in self.devices else self._cloud).take(arrived_at, stages[1:])
        else:
            self.latencies.append(now - arrived_at)


def simulate(stages: Sequence[Stages], load: float, seed: int) -> list[float]:
    """Give the latencies, in order, of Poisson arrivals that ask for a share ``load`` of the cores."""
    draw = random.Random(seed)  # noqa: S311 - arrivals, no secret
    rate = load * _CORES * len(stages) / sum(map(sum, stages))  # per millisecond
    site, now, arrives_at, arrived = Site(), 0.0, 0.0, 0
    while (busy := site.busy()) or arrived < _ARRIVALS:
        pace = min(1.0, _CORES / max(1, len(busy)))
        ends_in = min((server.left_ms / pace for server in busy), default=math.inf)
        step = min(ends_in, arrives_at - now if arrived < _ARRIVALS else math.inf)
        now += step
        site.work(busy, now, step * pace)
        if arrived < _ARRIVALS and now >= arrives_at:
            site.devices[arrived % _CORES].take(now, draw.choice(stages))
            arrived += 1
            arrives_at = now + draw.expovariate(rate)
    return sorted(site.latencies)


def main() -> None:
    """Print the median, the 99th percentile and their ratio at several loads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--bundle", default=SHIPPED)
    parser.add_argument("--policy", default="default")
    asked = parser.parse_args()
    bundle = open_bundle(asked.bundle)
    texts = list(dict.fromkeys(read_examples(asked.input).texts))
    stages = measure(bundle, asked.policy, texts)
    print(f"{len(texts)} texts, {sum(map(sum, stages)) / len(stages):.2f} ms each")  # noqa: T201
    for load in (0.01, 0.25, 0.5, 0.75):
        found = [simulate(stages, load, seed) for seed in range(_SEEDS)]
        p50, p99 = ([each[int(share * len(each))] for each in found] for share in (0.5, 0.99))
        ratios = sorted(high / low for low, high in zip(p50, p99, strict=True))
        middle = _SEEDS // 2
        print(  # noqa: T201
            f"load {load:.2f}: median {sorted(p50)[middle]:.2f} ms, 99th percentile {sorted(p99)[middle]:.2f} ms, "
            f"ratio {ratios[middle]:.1f} ({ratios[0]:.1f} - {ratios[-1]:.1f})"
        )


if __name__ == "__main__":
    main()
