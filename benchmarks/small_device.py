"""A device as on a small board: one core, one thread, and no more address space than it is given.

``python benchmarks/small_device.py --input dev.tsv`` starts a site with Mosquitto, then for each limit a fresh
``dimee device run`` pinned to one core under RLIMIT_AS, which bounds resident memory too, and asks it text by text.
Ends with one JSON line per limit: seconds to the first answer, milliseconds per answer, resident megabytes.
"""

import argparse
import json
import os
import resource
import select
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from common.bench.driver import resident_mb
from common.commands.demo_inputs import read_inputs
from common.commands.fleet import Fleet, fleet
from common.model.bundle import open_bundle
from common.types import Tier

_MB = 2**20
_ANSWER_LIMIT_S = 20.0  # without memory for a thread a device may neither answer nor end
_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # NumPy's pool alone reserves hundreds of megabytes


def measure(site: Fleet, limit_mb: int, texts: Sequence[str]) -> dict[str, object]:
    """Start a device under a limit of address space, 0 for none, and ask it every text; say why if it cannot."""
    started = time.perf_counter()
    process = site.start_device(f"small-{limit_mb}", _THREADS)
    os.sched_setaffinity(process.pid, {0})
    if limit_mb:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit_mb * _MB, limit_mb * _MB))
    answers = list(_ask(process, texts))
    if len(answers) < len(texts):
        return {"limit_mb": limit_mb, "answers": len(answers), "failed": "it ended, or gave no answer"}
    took = [after - before for before, after in pairwise(answers)]
    return {
        "limit_mb": limit_mb,
        "answers": len(answers),
        "first_answer_s": round(answers[0] - started, 2),
        "median_ms": round(1000 * statistics.median(took), 2),
        "p95_ms": round(1000 * statistics.quantiles(took, n=20)[-1], 2),
        "resident_mb": round(resident_mb(process.pid), 1),
    }


def _ask(process: subprocess.Popen[bytes], texts: Sequence[str]) -> Iterator[float]:
    """Give the moment of each answer, one text after another, until there is none."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("it was started with pipes")
    for text in texts:
        try:
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return
        is_ready, _, _ = select.select([process.stdout], [], [], _ANSWER_LIMIT_S)
        if not is_ready or not process.stdout.readline():
            return
        yield time.perf_counter()


def main() -> None:
    """Measure every limit on one site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, help="TSV, CSV or JSONL, or plain lines; the shipped reviews without it")
    parser.add_argument("--bundle", default="shipped")
    parser.add_argument("--limits", default="0,512,256,224,192,160", help="megabytes of address space; 0 is none")
    parser.add_argument("--texts", type=int, default=300)
    given = parser.parse_args()
    bundle = open_bundle(given.bundle)
    texts = [item.text.replace("\n", " ") for item in read_inputs(given.input, bundle.manifest)][: given.texts]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        with fleet(directory=place, broker="mosquitto", site="small", bundle=str(bundle.directory)) as site:
            site.start(Tier.EDGE, "edge", {"DIMEE_LOG__URL": f"sqlite:///{place / 'log.sqlite'}"})
            site.start(Tier.CLOUD, "cloud")
            site.wait_online("edge", "cloud")
            for limit_mb in map(int, given.limits.split(",")):
                print(json.dumps(measure(site, limit_mb, texts)), flush=True)  # noqa: T201 - what the script is for


if __name__ == "__main__":
    main()
