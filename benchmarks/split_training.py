"""Split training over MQTT: bytes both ways and final accuracy, by what travels.

``python benchmarks/split_training.py --backbone DIR --train FILE --keep DIR`` trains the same network for each way and
seed by ``dimee model train-split``: Mosquitto, a server part and a device part as processes. A way is
``UP/DOWN/BUDGET``: the device's codec, the server's, and dimensions per token; with the first the others are compared.
What is finished lies in ``--keep`` and is not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common.commands.fleet import open_broker, running
from common.errors import TransportError
from common.evaluation.metrics import Bootstrap, interval


def train(options: argparse.Namespace, way: str, seed: int) -> dict[str, Any]:
    """Train one network in two processes; gives what the device part prints."""
    kept: Path = options.keep / f"{way.replace('/', '-')}-seed-{seed}.json"
    if not kept.is_file():
        up, down, budget = way.split("/")
        with tempfile.TemporaryDirectory() as scratch, open_broker("mosquitto", Path(scratch)) as broker:
            shared = ["--split-over", broker.host, "--port", str(broker.port), "--backbone", options.backbone]
            shared += ["--train", options.train, "--seed", str(seed)]
            command = [sys.executable, "-m", "common.cli", "model", "train-split", *shared]
            own = ["--budget", budget, "--steps", str(options.steps), "--keep-back", str(options.keep_back)]
            server = [*command, "--part", "server", "--codec", down]
            with running(server, _environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                _wait_until_connected(process)
                said = subprocess.run(  # noqa: S603 - our own command
                    [*command, "--part", "device", "--codec", up, *own],
                    env=_environment(),
                    stdout=subprocess.PIPE,
                    check=True,
                )
        options.keep.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(said.stdout)
    found: dict[str, Any] = json.loads(kept.read_bytes())
    return found


def _wait_until_connected(process: subprocess.Popen[bytes]) -> None:
    said = b""
    for said in process.stderr or ():
        if b"connected to" in said:
            return
    raise TransportError(f"the server part stopped at its start: {said.decode().strip()}")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Train every way with every seed; points lost are paired over kept-back texts and seeds."""
    runs = {way: [train(options, way, seed) for seed in options.seeds] for way in options.ways}
    first = next(iter(runs.values()))
    return {way: _row(found, first, options.keep_back) for way, found in runs.items()}


def _row(found: list[dict[str, Any]], first: list[dict[str, Any]], texts: int) -> dict[str, Any]:
    moved, most = ([run["up_bytes"] + run["down_bytes"] for run in runs] for runs in (found, first))
    lost = [_lost(one, other, texts) for one, other in zip(found, first, strict=True)]
    means = [Bootstrap(texts, seed=place).means(each[:, None])[:, 0] for place, each in enumerate(lost)]  # [seeds, R]
    drawn = np.random.default_rng(0).integers(len(lost), size=(len(lost), len(means[0])))
    spread = interval(100 * np.take_along_axis(np.stack(means), drawn, axis=0).mean(axis=0))
    return {
        "up_bytes": [run["up_bytes"] for run in found],
        "down_bytes": [run["down_bytes"] for run in found],
        "times_fewer": round(sum(most) / sum(moved), 1),
        "accuracy": [round(run["accuracy"], 4) for run in found],
        "points_lost": round(100 * float(np.mean(lost)), 2),
        "interval": [round(spread.low, 2), round(spread.high, 2)],
    }


def _lost(one: dict[str, Any], other: dict[str, Any], texts: int) -> np.ndarray:
    """Give of each kept-back text [N], in no order, 1 where only ``one`` misses it and -1 where only ``other`` does."""
    missed, before = set(one["missed"]), set(other["missed"])
    changes = [1.0] * len(missed - before) + [-1.0] * len(before - missed)
    return np.array(changes + [0.0] * (texts - len(changes)))


def _environment() -> dict[str, str]:
    return dict(os.environ) | {"OMP_NUM_THREADS": "1"}


def main() -> None:
    """Read the options, train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help="directory of the backbone")
    parser.add_argument("--train", required=True, help="labelled texts")
    parser.add_argument("--keep", type=Path, required=True, help="directory for what each training says")
    parser.add_argument("--steps", type=int, default=200, help="of 16 texts")
    parser.add_argument("--keep-back", type=int, default=1000, help="texts that are scored")
    parser.add_argument("--ways", nargs="+", default=["float32/float32/0", "int8/int8/0", "graded/int8/96"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    print(json.dumps(compare(options)))  # noqa: T201


if __name__ == "__main__":
    main()
