"""``dimee log sql`` and ``tail``: questions of one's own, and what comes in now."""

import csv
import sys
import time
from typing import Annotated, Any

import msgspec
import typer

from common.cli.output import local_time, number, percent, print_json, print_table
from common.commands.log_options import (
    DEFAULT_URL,
    AsJson,
    ByDevice,
    ByLabel,
    ByReason,
    ByTier,
    Database,
    Since,
    filters_of,
    opened,
)
from common.store.moments import moment
from common.store.queries import LoggedRequest
from common.store.select import Selected, select
from common.store.stream import Stream

_POLL_S = 0.5


def sql(
    statement: Annotated[str, typer.Argument(help="One SELECT over request_log and hop.")],
    *,
    db: Database = DEFAULT_URL,
    timeout: Annotated[float, typer.Option(min=0.01, help="Stop the query after so many seconds.")] = 10.0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many rows.")] = 1000,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask in SQL; nothing can be changed. Example: dimee log sql "SELECT label, count(*) FROM request_log GROUP BY 1".

    The tables are request_log, with a row per request, and hop, with a row per tier that worked on it.
    """
    with opened(db) as engine:
        found = select(engine, statement, limit_s=timeout, max_rows=limit)
    if found.is_cut:
        typer.echo(f"dimee: only the first {limit:,} rows are shown; raise --limit for more", err=True)
    if as_json:
        return print_json([dict(zip(found.columns, row, strict=True)) for row in found.rows])
    if as_csv:
        return _print_csv(found)
    return print_table(f"{len(found.rows)} rows", found.columns, ([_plain(cell) for cell in row] for row in found.rows))


def tail(
    *,
    db: Database = DEFAULT_URL,
    tier: ByTier = None,
    device: ByDevice = None,
    label: ByLabel = None,
    reason: ByReason = None,
    since: Since = None,
    follow: Annotated[bool, typer.Option(help="Wait for more; --no-follow stops at the end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Print requests as they are recorded, until Ctrl-C. Example: dimee log tail --since 10m --reason degraded.

    With --json, one JSON document per line.
    """
    filters = filters_of(tier, device, label, reason, since=None, until=None)
    with opened(db) as engine:
        stream = Stream(engine, filters, start=None if since is None else moment(since, time.time()))
        try:
            for request in stream.fresh():
                _print_line(request, as_json=as_json)
            while follow:
                time.sleep(_POLL_S)  # no database tells another process of a commit in the same way
                for request in stream.fresh():
                    _print_line(request, as_json=as_json)
        except KeyboardInterrupt:
            return


def _print_line(request: LoggedRequest, *, as_json: bool) -> None:
    if as_json:
        line = msgspec.json.encode(request).decode()
    else:
        line = (
            f"{local_time(request.recorded_at)}  {request.request_id}  {request.device_id}  {request.exit_tier} "
            f"after layer {request.exit_layer}: {request.reason}  {request.label or '-'} "
            f"{percent(request.confidence)}  {number(request.total_ms)} ms"
        )
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _print_csv(found: Selected) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(found.columns)
    writer.writerows(found.rows)


def _plain(cell: Any) -> str | int | float | None:
    if isinstance(cell, bytes):
        return f"{len(cell)} bytes"
    return cell if isinstance(cell, str | int | float) or cell is None else str(cell)
