"""How long every ``dimee log`` command takes on a log of a million requests.

``python benchmarks/log_size.py --url sqlite:///large.sqlite`` fills an empty database once and ends with a Markdown
table. Each command is a process of its own, start of Python included. On a busy machine the CPU time tells more than
the clock. What PostgreSQL's server spends is counted where ``--server-pid`` names its first process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from common.store.engine import writable_log

_DAY_S = 86_400.0
_REAP_S = 0.3  # a server's process ends a moment after its client
_SPAN_S = 30 * _DAY_S  # the requests lie evenly over the last thirty days
_HOPS = {"device": 1, "edge": 2, "cloud": 3}
_REQUESTS = """
INSERT INTO request_log (request_id, created_at, recorded_at, device_id, exit_tier, reason, label, true_label, total_ms,
 payload_bytes, cost, confidence, threshold, exit_layer, entry_tier, pool, distance_easy, distance_moderate,
 distance_hard, queue_ms, compute_ms, network_ms, tokens, is_truncated, attempts, cost_model, model_revision,
 detail, text)
WITH RECURSIVE n(i) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})
SELECT 'r' || (100000000 + i), {first} + i * {step}, {first} + i * {step} + 0.5, 'pi-' || (i % 40),
 CASE WHEN i % 100 < 65 THEN 'device' WHEN i % 100 < 91 THEN 'edge' ELSE 'cloud' END,
 CASE WHEN i % 1000 = 7 THEN 'degraded' WHEN i % 100 < 91 THEN 'confident' ELSE 'final' END,
 CASE WHEN i % 3 = 0 THEN 'negative' ELSE 'positive' END,
 CASE WHEN i % 10 = 0 THEN CASE WHEN i % 4 = 0 THEN 'negative' ELSE 'positive' END END,
 0.5 + ((i * 7919) % 100003) / 1000.0, CASE WHEN i % 100 < 65 THEN 0 ELSE 3000 + i % 997 END, 1 + i % 11,
 0.5 + ((i * 104729) % 5000) / 10000.0, 0.9, CASE WHEN i % 100 < 65 THEN 2 WHEN i % 100 < 91 THEN 4 ELSE 6 END,
 'device', CASE i % 3 WHEN 0 THEN 'easy' WHEN 1 THEN 'moderate' ELSE 'hard' END, 0.1, 0.2, 0.3, 0.1, 1.5, 2.5,
 20 + i % 30, {false}, CASE WHEN i % 100 < 65 THEN 0 ELSE 1 END, 'paper', '0123456789abcdef', '', NULL FROM n
"""
_HOPS_SQL = """
INSERT INTO hop (request_id, position, tier, node, start_layer, end_layer, queue_ms, compute_ms, received_bytes,
 confidence, predictions)
SELECT request_id, {position}, '{tier}', '{tier}-1', {start}, {end}, 0.1, 0.5, {received}, confidence, '[1]'
FROM request_log WHERE exit_tier IN ({tiers})
"""


class Measured(NamedTuple):
    """One command's median times."""

    command: str
    wall_s: float
    cpu_s: float  # of the process, user and system
    server_s: float  # of the server's processes for it, all together
    spread_s: float  # of the clock's, largest less smallest


def fill(url: str, rows: int) -> None:
    """Make a log of so many requests and their hops; one that is filled stays as it is."""
    with writable_log(url) as engine, engine.begin() as connection:
        if connection.exec_driver_sql("SELECT count(*) FROM request_log").scalar_one():
            return
        is_sqlite = engine.dialect.name == "sqlite"
        first, step = time.time() - _SPAN_S, _SPAN_S / rows
        false = "0" if is_sqlite else "false"
        connection.execute(sa.text(_REQUESTS.format(rows=rows, first=first, step=step, false=false)))
        for position, tier in enumerate(_HOPS):
            tiers = ", ".join(f"'{name}'" for name, hops in _HOPS.items() if hops > position)
            span = {"start": 2 * position, "end": 2 * position + 2, "received": 3000 if position else 0}
            connection.exec_driver_sql(_HOPS_SQL.format(position=position, tier=tier, tiers=tiers, **span))
        connection.exec_driver_sql("ANALYZE")


def commands(rows: int) -> list[Sequence[str]]:
    """Give each command once or twice, as people use them."""
    some = f"r{100_000_000 + rows // 2}"
    return [
        ["list"],
        ["list", "--tier", "cloud", "--since", "2h"],
        ["list", "--device", "pi-7", "--reason", "degraded"],
        ["list", "--label", "positive", "--until", "20d"],
        ["show", some],
        ["stats"],
        ["stats", "--since", "7d"],
        ["stats", "--tier", "cloud"],
        ["stats", "--device", "pi-7"],
        ["report"],
        ["report", "--since", "7d"],
        ["tail", "--since", "1m", "--no-follow"],
        ["sql", "SELECT exit_tier, count(*) FROM request_log GROUP BY 1"],
        ["label", some, "positive"],
        ["export", "--since", "10m", "--format", "jsonl"],
        ["prune", "--older-than", "10000d", "--yes"],
    ]


def measure(command: Sequence[str], url: str, repeats: int, server_pid: int | None) -> Measured:
    """Run a command several times."""
    walls, cpus, servers = [], [], []
    for _ in range(repeats):
        before_s = _ended_children_s(server_pid)
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "common.cli", *command],
            env={**os.environ, "DIMEE_LOG__URL": url},
            stdout=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        walls.append(time.perf_counter() - started)
        cpus.append(used.ru_utime + used.ru_stime)
        time.sleep(_REAP_S)
        servers.append(_ended_children_s(server_pid) - before_s)
        if status:
            raise SystemExit(f"dimee {' '.join(command)} failed with {os.waitstatus_to_exitcode(status)}")
    medians = (statistics.median(figures) for figures in (walls, cpus, servers))
    return Measured(" ".join(command), *medians, max(walls) - min(walls))


def _ended_children_s(pid: int | None) -> float:
    """Give the CPU seconds of a process's children that have ended (proc(5)): a server's one per connection."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Fill, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="an empty database, or one that this program filled")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--server-pid", type=int, help="the first process of a PostgreSQL on this machine")
    options = parser.parse_args()
    started = time.perf_counter()
    fill(options.url, options.rows)
    sys.stderr.write(f"filled in {time.perf_counter() - started:.0f} s\n")
    sys.stdout.write("| command | s | CPU s | server CPU s | spread s |\n| --- | --- | --- | --- | --- |\n")
    for command in (["--help"], *commands(options.rows)):
        found = measure(["log", *command], options.url, options.repeats, options.server_pid)
        figures = (found.wall_s, found.cpu_s, found.server_s, found.spread_s)
        sys.stdout.write(f"| `dimee {found.command}` | {' | '.join(f'{each:.2f}' for each in figures)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
