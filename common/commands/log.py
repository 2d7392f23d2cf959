"""``dimee log``: the inference log as tables, figures and files, also while an edge writes it."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from common.cli.output import local_time, number, percent, print_json, print_table
from common.errors import ConfigError, StoreError
from common.store import queries
from common.store.engine import Engine, readable_log
from common.store.export import ExportFormat, export, export_document
from common.store.moments import moment
from common.store.queries import Filters, LoggedHop, LoggedRequest, RoutedRequest
from common.store.statistics import Figures, stats
from common.types import Reason, Tier

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Query the inference log.")

Database = Annotated[
    str, typer.Option("--db", envvar="DIMEE_LOG__URL", metavar="URL_OR_PATH", help="The log's database.")
]
ByTier = Annotated[Tier | None, typer.Option("--tier", help="Only requests that this tier answered.")]
ByDevice = Annotated[str | None, typer.Option("--device", help="Only requests of this device.")]
ByLabel = Annotated[str | None, typer.Option("--label", help="Only requests answered with this label.")]
ByReason = Annotated[Reason | None, typer.Option("--reason", help="Only requests answered for this reason.")]
Since = Annotated[str | None, typer.Option(help="From this time on: an age as 2h or 7d, or an ISO time.")]
Until = Annotated[str | None, typer.Option(help="Up to this time, excluded.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many requests.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Out = Annotated[Path | None, typer.Option(help="The file to write; standard output when none is named.")]
Format = Annotated[ExportFormat, typer.Option("--format", help="csv: no hops; jsonl: hops inside.")]
_FALLBACKS = (Reason.DEGRADED, Reason.FAILED)
DEFAULT_URL = "sqlite:///dimee-log.sqlite"


@app.callback()
def log() -> None:
    """Query the inference log."""


@app.command("list")
def list_(
    *,
    db: Database = DEFAULT_URL,
    tier: ByTier = None,
    device: ByDevice = None,
    label: ByLabel = None,
    reason: ByReason = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest requests. Example: dimee log list --tier cloud --since 2h."""
    filters = _filters(tier, device, label, reason, since=since, until=until)
    with _opened(db) as engine:
        requests = queries.newest(engine, filters, limit=limit)
    if as_json:
        return print_json(requests)
    columns = ("created", "request", "device", "pool", "tier", "layer", "reason", "label", "confidence", "ms", "bytes")
    return print_table(f"newest {len(requests)} requests", columns, (_line(request) for request in requests))


@app.command()
def show(
    request_id: Annotated[str, typer.Argument(help="As 'dimee log list' shows it.")],
    *,
    db: Database = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show one request and its way, hop by hop. Example: dimee log show 3f2a."""
    with _opened(db) as engine:
        request = queries.find(engine, request_id)
    if request is None:
        raise StoreError(f"the log holds no request {request_id!r}; see 'dimee log list'")
    if as_json:
        return print_json(request)
    return _print_request(request)


@app.command("stats")
def stats_(
    *,
    db: Database = DEFAULT_URL,
    tier: ByTier = None,
    device: ByDevice = None,
    label: ByLabel = None,
    reason: ByReason = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Sum up who answered, how well, how fast and at what cost. Example: dimee log stats --since 7d."""
    filters = _filters(tier, device, label, reason, since=since, until=until)
    with _opened(db) as engine:
        reckoned = stats(engine, filters)
    if as_json:
        return print_json(reckoned)
    columns = ("tier", "answered", "share", "accuracy", "p50 ms", "p95 ms", "bytes", "cost", *_FALLBACKS)
    named = [*((str(name), figures) for name, figures in reckoned.tiers.items()), ("all", reckoned.overall)]
    title = f"{reckoned.requests:,} requests"
    if reckoned.first_created_at is not None and reckoned.last_created_at is not None:
        title += f", {local_time(reckoned.first_created_at)} to {local_time(reckoned.last_created_at)}"
    return print_table(title, columns, (_figures_line(name, figures) for name, figures in named))


@app.command("export")
def export_(
    *,
    db: Database = DEFAULT_URL,
    format_: Format = ExportFormat.JSONL,
    out: Out = None,
    tier: ByTier = None,
    device: ByDevice = None,
    label: ByLabel = None,
    reason: ByReason = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Write requests to a file, oldest first. Example: dimee log export --format csv --out log.csv.

    With --json and --out, a summary is printed; with --json alone, the requests as one JSON array.
    """
    filters = _filters(tier, device, label, reason, since=since, until=until)
    with _opened(db) as engine:
        requests = queries.oldest_first(engine, filters)
        if out is None and as_json:
            export_document(requests, sys.stdout)
        elif out is None:
            export(requests, sys.stdout, format_)
        else:
            with _replacing(out) as file:
                count = export(requests, file, format_)
            summary = {"requests": count, "format": format_, "file": str(out)}
            print_json(summary) if as_json else typer.echo(f"{count:,} requests written to {out}", err=True)


@contextmanager
def _opened(db: str) -> Iterator[Engine]:
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(readable_log(db))
        except StoreError as exc:
            raise ConfigError(str(exc)) from exc  # the option is wrong, not the disk
        yield engine


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Write beside the file and take its place at the end, so that nothing is ever half-written."""
    if path.is_dir():
        raise ConfigError(f"--out {path}: is a folder; name a file")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as exc:
        raise ConfigError(f"--out {path}: cannot be written: {exc.strerror}") from exc
    partial = Path(name)
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - a handle, not a path
            yield file
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as exc:
        raise StoreError(f"--out {path}: cannot be written: {exc.strerror}") from exc
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _filters(
    tier: Tier | None,
    device: str | None,
    label: str | None,
    reason: Reason | None,
    *,
    since: str | None,
    until: str | None,
) -> Filters:
    now = time.time()
    return Filters(
        tier=tier,
        device=device,
        label=label,
        reason=reason,
        since=None if since is None else moment(since, now),
        until=None if until is None else moment(until, now),
    )


def _line(request: LoggedRequest) -> tuple[str | int | float | None, ...]:
    return (
        local_time(request.created_at),
        request.request_id,
        request.device_id,
        request.pool,
        request.exit_tier,
        request.exit_layer,
        request.reason,
        request.label,
        percent(request.confidence),
        number(request.total_ms),
        request.payload_bytes,
    )


def _figures_line(name: str, figures: Figures) -> tuple[str | int | float | None, ...]:
    return (
        name,
        figures.answered,
        percent(figures.share),
        percent(figures.accuracy),
        number(figures.latency_ms_p50),
        number(figures.latency_ms_p95),
        number(figures.payload_bytes_per_request, 0),
        number(figures.cost_per_request, 2),
        *(figures.reasons.get(reason, 0) for reason in _FALLBACKS),
    )


def _print_request(request: RoutedRequest) -> None:
    distances = (request.distance_easy, request.distance_moderate, request.distance_hard)
    facts = [
        ("created", local_time(request.created_at)),
        ("recorded", local_time(request.recorded_at)),
        ("device", request.device_id),
        ("text", request.text or "not kept"),
        ("tokens", f"{request.tokens}, cut at the model's limit" if request.is_truncated else str(request.tokens)),
        ("pool", request.pool or "-"),
        ("distances", ", ".join(number(distance, 3) for distance in distances) + " to easy, moderate, hard"),
        ("way", f"entered at the {request.entry_tier}, answered by the {request.exit_tier}, {request.attempts} sent"),
        ("label", f"{request.label or '-'} (true label {request.true_label or 'unknown'})"),
        ("confidence", f"{percent(request.confidence)} (threshold {percent(request.threshold)})"),
        ("reason", f"{request.reason} {request.detail}".strip()),
        ("total", f"{number(request.total_ms)} ms"),
        ("compute", f"{number(request.compute_ms)} ms"),
        ("queue", f"{number(request.queue_ms)} ms"),
        ("network", f"{number(request.network_ms)} ms"),
        ("payload", f"{request.payload_bytes:,} bytes"),
        ("cost", f"{number(request.cost, 2)} ({request.cost_model or 'no model'})"),
        ("revision", request.model_revision),
    ]
    print_table(f"request {request.request_id}", ("", ""), facts)
    columns = ("hop", "tier", "node", "layers", "confidence", "predictions", "queue ms", "compute ms", "bytes in")
    print_table("its way", columns, (_hop_line(hop) for hop in request.hops))


def _hop_line(hop: LoggedHop) -> tuple[str | int | float | None, ...]:
    return (
        hop.position,
        hop.tier,
        hop.node,
        f"[{hop.start_layer}, {hop.end_layer})",
        percent(hop.confidence),
        " ".join(map(str, hop.predictions)),
        number(hop.queue_ms),
        number(hop.compute_ms),
        hop.received_bytes,
    )
