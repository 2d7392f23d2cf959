"""``dimee log``: the inference log as tables, figures and files, also while an edge writes it."""

import sys
from typing import Annotated

import msgspec
import typer

from common.cli.output import local_time, number, percent, print_json, print_table
from common.commands import log_labels, log_quarantine, log_query, log_report
from common.commands.log_options import (
    DEFAULT_URL,
    AsJson,
    ByDevice,
    ByLabel,
    ByReason,
    ByTier,
    Database,
    Format,
    Limit,
    Out,
    Since,
    Until,
    filters_of,
    opened,
    replacing,
)
from common.errors import StoreError
from common.service.trust import open_vault
from common.store import queries
from common.store.export import ExportFormat, export_document, write_file, write_text
from common.store.queries import LoggedHop, LoggedRequest, RoutedRequest
from common.store.statistics import Figures, Races, stats
from common.types import Reason

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Query the inference log.")

app.command("sql")(log_query.sql)
app.command("tail")(log_query.tail)
app.command("label")(log_labels.label)
app.command("report")(log_report.report)
app.command("prune")(log_labels.prune)
app.command("forget")(log_labels.forget)
app.add_typer(log_quarantine.app, name="quarantine")
_FALLBACKS = (Reason.DEGRADED, Reason.FAILED)


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
    filters = filters_of(tier, device, label, reason, since=since, until=until)
    with opened(db) as engine:
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
    key: Annotated[str | None, typer.Option(help="The key of log.key_file, to read an encrypted text.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one request and its way, hop by hop. Example: dimee log show 3f2a."""
    with opened(db) as engine:
        request = queries.find(engine, request_id)
    if request is None:
        raise StoreError(f"the log holds no request {request_id!r}; see 'dimee log list'")
    text = open_vault("--key", key).open_text(request.text, request.request_id)
    request = msgspec.structs.replace(request, text=text)
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
    filters = filters_of(tier, device, label, reason, since=since, until=until)
    with opened(db) as engine:
        reckoned = stats(engine, filters)
    if as_json:
        return print_json(reckoned)
    columns = ("tier", "answered", "share", "accuracy", "p50 ms", "p95 ms", "bytes", "cost", *_FALLBACKS)
    named = [*((str(name), figures) for name, figures in reckoned.tiers.items()), ("all", reckoned.overall)]
    title = f"{reckoned.requests:,} requests"
    if reckoned.first_created_at is not None and reckoned.last_created_at is not None:
        title += f", {local_time(reckoned.first_created_at)} to {local_time(reckoned.last_created_at)}"
    print_table(title, columns, (_figures_line(name, figures) for name, figures in named))
    return _print_races(reckoned.races)


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
    filters = filters_of(tier, device, label, reason, since=since, until=until)
    with opened(db) as engine:
        requests = queries.oldest_first(engine, filters)
        if out is None and as_json:
            export_document(requests, sys.stdout)
        elif out is None:
            write_text(requests, sys.stdout, format_)
        else:
            with replacing(out) as draft:
                count = write_file(requests, draft, format_)
            summary = {"requests": count, "format": format_, "file": str(out)}
            print_json(summary) if as_json else typer.echo(f"{count:,} requests written to {out}", err=True)


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


def _print_races(races: Races) -> None:
    if races.requests:
        typer.echo(
            f"{races.requests:,} races of the device's own exit against another tier: the device won "
            f"{races.won_by_device:,}; of {races.compared:,} with both answers {races.agreed:,} agreed"
        )


def _race(request: RoutedRequest) -> str:
    if request.race_winner is None:
        return "-"
    if request.loser_tier is None:
        return f"won by the {request.race_winner}; the other side said nothing"
    said = f"{request.loser_label} ({percent(request.loser_confidence)})"
    return f"won by the {request.race_winner}; the {request.loser_tier} would have said {said}"


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
        ("signature", request.signature or "-"),
        ("race", _race(request)),
        ("total", f"{number(request.total_ms)} ms"),
        ("compute", f"{number(request.compute_ms)} ms"),
        ("queue", f"{number(request.queue_ms)} ms"),
        ("network", f"{number(request.network_ms)} ms"),
        ("payload", f"{request.payload_bytes:,} bytes"),
        ("cost", f"{number(request.cost, 2)} ({request.cost_model or 'no model'})"),
        ("revision", request.model_revision),
    ]
    print_table(f"request {request.request_id}", ("", ""), facts)
    columns = (
        "hop",
        "tier",
        "node",
        "layers",
        "confidence",
        "predictions",
        "queue ms",
        "compute ms",
        "bytes in",
        "as",
        "variant",
    )
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
        f"{hop.codec} {hop.received_tokens} x {hop.received_width}" if hop.codec else "-",
        hop.variant or "-",
    )
