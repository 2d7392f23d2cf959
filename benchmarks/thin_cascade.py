"""What a cascade loses over thin links, where only unsure requests travel: tier by tier, in one process.

``python benchmarks/thin_cascade.py --data dev.tsv`` ends with one JSON line: for each thinness the accuracy, the points
lost against ``float32`` with their 95 % interval (paired bootstrap), messages per request, and the bytes of hidden
states in a message. Every request starts on the device.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from common.engine.choice import choose_policy
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation, unpack_state
from common.engine.pipeline import Pipeline, State, Unsure
from common.engine.thinness import Always, Thinness
from common.evaluation.labelled import read_texts
from common.evaluation.metrics import Bootstrap, interval
from common.model.bundle import open_bundle
from common.types import TIERS

_WAYS = (
    Thinness(codec="float32"),
    Thinness(codec="int8"),
    *(Thinness(codec="graded", budget=budget) for budget in (320, 256, 192, 160, 128, 96, 64)),
    Thinness(codec="graded", budget=128, tokens=0.75),
)


def answers(location: str, data: Path, policy_name: str) -> tuple[np.ndarray, list[list[int]], list[int]]:
    """Give every text's class [ways, N], the bytes of each message by way, and the true classes."""
    bundle = open_bundle(location)
    policy = choose_policy(bundle, policy_name)
    entrance = Entrance(bundle, policy)
    device, *later = (Pipeline(bundle, policy, depth=bundle.manifest.depths.of(tier)) for tier in TIERS)
    ways = [
        Escalation(bundle.manifest, way.codec, links=device.links, chooser=Always(way, device.links)) for way in _WAYS
    ]
    texts, labels = read_texts(bundle, data)
    found, sizes = np.zeros((len(ways), len(texts)), np.intp), [list[int]() for _ in ways]
    for row, (text, pair) in enumerate(texts):
        (begun,) = device.advance([entrance.enter(text, pair).state])
        for place, way in enumerate(ways):
            verdict = begun
            for pipeline in later:
                if isinstance(verdict, Unsure):
                    (verdict,) = pipeline.advance([_carried(way, verdict.state, pipeline, sizes[place])])
            best = verdict.best if isinstance(verdict, Unsure) else verdict
            found[place, row] = best.predictions[-1]
    return found, sizes, labels


def _carried(way: Escalation, state: State, pipeline: Pipeline, sizes: list[int]) -> State:
    message = way.pack("r", "d", state, budget_ms=1.0, hops=())
    sizes.append(sum(len(tensor.data) for tensor in message.tensors))
    return unpack_state(message, pipeline.manifest, pipeline.links)


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="shipped")
    parser.add_argument("--data", type=Path, required=True, help="labelled texts")
    parser.add_argument("--policy", default="default")
    options = parser.parse_args()
    found, sizes, labels = answers(options.bundle, options.data, options.policy)
    resampled = Bootstrap(len(labels)).scores("accuracy", found, np.asarray(labels, np.int64))  # [R, ways]
    accuracy = (found == labels).mean(axis=1)
    document = {
        f"{way.codec} {way.budget or 'all'} {way.tokens:g}": {
            "accuracy": round(float(accuracy[place]), 5),
            "drop_points": round(100 * float(accuracy[0] - accuracy[place]), 3),
            "interval": [round(each, 3) for each in _ends(100 * (resampled[:, 0] - resampled[:, place]))],
            "messages_per_request": round(len(sizes[place]) / len(labels), 3),
            "bytes_per_message": round(float(np.mean(sizes[place])), 1),
        }
        for place, way in enumerate(_WAYS)
    }
    print(json.dumps({"data": options.data.name, "policy": options.policy, "ways": document}))  # noqa: T201


def _ends(drops: np.ndarray) -> tuple[float, float]:
    found = interval(drops)
    return found.low, found.high


if __name__ == "__main__":
    main()
