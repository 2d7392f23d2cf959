"""``python -m tests.chaos``: ends with one JSON line, and status 1 when the promise was broken."""

import argparse
import json
import secrets
import sys
from pathlib import Path

from tests.chaos.nemesis import run


def main() -> int:
    """Read the options, run, and print the report."""
    parser = argparse.ArgumentParser(description="Kill, cut, flood and mutate a running site, and check the promise.")
    parser.add_argument("--bundle", default="shipped", help="a bundle's directory")
    parser.add_argument("--duration", type=float, default=600, metavar="S", help="seconds of faults")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's faults")
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="mosquitto")
    parser.add_argument("--protected", action="store_true", help="with everything of docs/SECURITY.md")
    parser.add_argument("--requests", type=int, default=10**9, help="stop after this many, if sooner")
    parser.add_argument("--rate", type=float, default=150.0, help="requests per second at most")
    parser.add_argument("--directory", type=Path, default=None, help="keep logs and databases here")
    options = parser.parse_args()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    print(f"chaos: seed {seed}, {options.duration:.0f} s, {options.broker}", file=sys.stderr)  # noqa: T201 - a command
    report = run(
        options.bundle,
        duration_s=options.duration,
        seed=seed,
        broker=options.broker,
        total=options.requests,
        rate=options.rate,
        directory=options.directory,
        is_protected=options.protected,
    )
    print(json.dumps(report))  # noqa: T201 - a command
    return 0 if report["kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
