"""``python -m tests.fuzz``: mutate messages for as long as asked, and report counts and memory as one JSON line.

Uses atheris, which steers by coverage (pip install 'dimee[fuzz]'); ``--plain`` mutates without it.
"""

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

_MESSAGE_SHARE = 0.97  # of all inputs; configuration files are slow and reach no network


class Progress:
    """Counts runs and watches memory."""

    def __init__(self, runs: int) -> None:
        self.counts: Counter[str] = Counter()
        self.started = time.monotonic()
        self.rss_mb: list[float] = []
        self._runs = runs

    def note(self, name: str) -> None:
        """Count a run; memory is read ten times on the way."""
        self.counts[name] += 1
        self.counts["runs"] += 1
        if self.counts["runs"] % max(1, self._runs // 10) == 0:
            self.rss_mb.append(_rss_mb())

    @property
    def is_last(self) -> bool:
        """Whether all runs are done."""
        return self.counts["runs"] == self._runs

    def report(self, how: str, **more: Any) -> str:
        """Give the JSON line."""
        elapsed_s = time.monotonic() - self.started
        document = {
            "fuzzer": how,
            **self.counts,
            "elapsed_s": round(elapsed_s, 1),
            "runs_per_s": round(self.counts["runs"] / elapsed_s),
            "rss_mb": self.rss_mb,
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            **more,
        }
        return json.dumps(document)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _plain(targets: Any, runs: int, seed: int, progress: Progress) -> None:
    from tests.fuzz.mutation import mutate  # noqa: PLC0415 - atheris instruments what is imported after it

    rng, seeds = random.Random(seed), targets.seeds()
    messages = [payload for number, payload in seeds if number == 0]
    others = [(number, payload) for number, payload in seeds if number]
    for _ in range(runs):
        if rng.random() < _MESSAGE_SHARE:
            number, payload = 0, mutate(rng.choice(messages), rng)
        else:
            number, payload = rng.choice(others)
            payload = mutate(payload, rng)
        targets.all[number](payload)
        progress.note(targets.all[number].__name__)


def _steered(targets: Any, name: str, options: list[str], progress: Progress, corpus: Path) -> None:
    import atheris  # noqa: PLC0415

    target = getattr(targets, name)
    for place, (number, payload) in enumerate(targets.seeds()):
        if targets.all[number] == target:
            (corpus / f"seed{place}").write_bytes(payload)

    def run_one(data: bytes) -> None:
        target(data)
        progress.note(name)
        if progress.is_last:  # libFuzzer ends the process without a word to Python
            print(progress.report("atheris", corpus=len(list(corpus.glob("*")))), flush=True)  # noqa: T201 - a command

    fixed = ["-max_len=4096", "-print_final_stats=1", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *options, *fixed, str(corpus)], run_one)
    atheris.Fuzz()  # ends the process


def main() -> int:
    """Read the options and fuzz."""
    parser = argparse.ArgumentParser(description="Fuzz wire, documents, topics and configuration.")
    parser.add_argument("--bundle", default="shipped")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="all targets, without atheris")
    parser.add_argument("--target", choices=("message", "document", "topic", "configuration"), default="message")
    parser.add_argument("--corpus", type=Path, default=None, help="kept between runs")
    options = parser.parse_args()
    progress = Progress(options.runs)
    with tempfile.TemporaryDirectory() as scratch:
        targets = _targets(options.bundle, Path(scratch), is_steered=not options.plain)
        if options.plain:
            _plain(targets, options.runs, options.seed, progress)
            print(progress.report("plain"))  # noqa: T201 - a command
            return 0
        corpus = options.corpus or Path(scratch) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        _steered(targets, options.target, [f"-runs={options.runs}", f"-seed={options.seed}"], progress, corpus)
    return 0


def _targets(bundle: str, scratch: Path, *, is_steered: bool) -> Any:
    if is_steered:
        import atheris  # noqa: PLC0415

        with atheris.instrument_imports(include=["common", "device_agent"]):
            from tests.fuzz.targets import Targets  # noqa: PLC0415
    else:
        from tests.fuzz.targets import Targets  # noqa: PLC0415
    from common.model.bundle import open_bundle  # noqa: PLC0415

    return Targets(open_bundle(bundle), scratch / "settings.toml")


if __name__ == "__main__":
    sys.exit(main())
