"""``dimee evaluate``: every policy on the same exits, with its constants and intervals."""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from common.cli.output import number, percent, print_json, print_table
from common.engine.choice import routing_table
from common.errors import ConfigError
from common.evaluation.comparison import ALL, Comparison, compare
from common.evaluation.labelled import Source, check_unseen, trace_file
from common.evaluation.measured import measure_cost
from common.evaluation.metrics import Metric
from common.evaluation.scoring import Setting
from common.evaluation.trace import CALIBRATION_FILE, Trace, read_calibration
from common.evaluation.tracing import Progress
from common.model.bundle import SHIPPED, Bundle, open_bundle
from common.routing.cost import CostModel
from common.store.engine import readable_log
from common.store.queries import oldest_first

app = typer.Typer(rich_markup_mode=None)

PAPER, MEASURED = "paper", "measured"


@app.command()
def evaluate(
    *,
    data: Annotated[Path, typer.Option(help="Labelled TSV, CSV or JSONL that the bundle has not seen.")],
    bundle: Annotated[str, typer.Option(help="A bundle's directory.")] = SHIPPED,
    policy: Annotated[list[str] | None, typer.Option(help="A policy by name, or all; may be repeated.")] = None,
    cost: Annotated[str, typer.Option(help="paper, measured (from --log), or a TOML or JSON file.")] = PAPER,
    log: Annotated[str, typer.Option(help="The log that --cost measured reads.")] = "sqlite:///dimee-log.sqlite",
    codec: Annotated[str, typer.Option(help="How hidden states travel: float32, float16 or int8.")] = "int8",
    metric: Annotated[str | None, typer.Option(help="accuracy or matthews; the bundle's own by default.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="onnxruntime threads.")] = 1,
    allow_seen: Annotated[bool, typer.Option("--allow-seen", help="Report on data the bundle learned from.")] = False,
    report: Annotated[Path | None, typer.Option(help="Draw figures and an HTML page into this directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score routing policies on labelled data. Example: dimee evaluate --data dev.tsv --policy all."""
    opened = open_bundle(bundle)
    source = check_unseen(opened, data, allow_seen=allow_seen)
    setting = Setting(
        depths=opened.manifest.depths, cost=cost_model(cost, log), metric=chosen_metric(opened, metric), codec=codec
    )
    table = routing_table(opened)
    calibration = read_calibration(opened) if CALIBRATION_FILE in opened.manifest.files else None
    trace = trace_file(opened, data, codec=codec, threads=threads, progress=progress("running all exits"))
    found = compare(trace, table, setting, names=policy or [ALL], calibration=calibration)
    if report is not None:
        _write_report(report, found, trace, opened, source)
    if as_json:
        print_json(document(found, opened, source))
    else:
        _print(found, opened, source)


def document(found: Comparison, bundle: Bundle, source: Source) -> dict[str, Any]:
    """Give everything that a reader needs to repeat the numbers."""
    manifest = bundle.manifest
    return {
        **found.document(),
        "data": {"file": source.file, "sha256": source.sha256, "is_seen": source.is_seen},
        "bundle": {"name": manifest.name, "revision": manifest.revision, "precision": manifest.precision},
    }


def cost_model(name: str, log: str) -> CostModel:
    """Look up, measure or read a cost model.

    Raises:
        ConfigError: The file is no cost model, or the log holds too little.
    """
    if name == PAPER:
        return CostModel()
    if name == MEASURED:
        with readable_log(log) as engine:
            return measure_cost(oldest_first(engine))
    path = Path(name)
    decode = msgspec.json.decode if path.suffix == ".json" else msgspec.toml.decode
    try:
        return decode(path.read_bytes(), type=CostModel)
    except OSError as exc:
        raise ConfigError(f"--cost {name!r} is neither {PAPER}, {MEASURED} nor a readable file") from exc
    except msgspec.DecodeError as exc:
        raise ConfigError(f"--cost {name}: no cost model: {exc}") from exc


def chosen_metric(bundle: Bundle, wanted: str | None) -> Metric:
    """Take the asked metric, or the one of the bundle's task.

    Raises:
        ConfigError: There is no such metric.
    """
    match wanted or bundle.manifest.training.get("metric", "accuracy"):
        case "accuracy":
            return "accuracy"
        case "matthews":
            return "matthews"
        case other:
            raise ConfigError(f"--metric {other!r} is neither accuracy nor matthews")


def progress(what: str) -> Progress | None:
    """Count on a terminal; say nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if done == total or done % 50 < 1:
            sys.stderr.write(f"\r{what}: {done:,} of {total:,}" + ("\n" if done == total else ""))
            sys.stderr.flush()

    return show


def _write_report(directory: Path, found: Comparison, trace: Trace, bundle: Bundle, source: Source) -> None:
    try:
        from common.evaluation.report import write_report  # noqa: PLC0415 - matplotlib only where pictures are asked for
    except ModuleNotFoundError as exc:
        raise ConfigError(f"--report needs {exc.name!r}; install it with pip install 'dimee[evaluate]'") from exc
    name = bundle.manifest.name
    origin = {"bundle": name, "revision": bundle.revision, "data": source.file, "sha256": source.sha256[:16]}
    files = write_report(
        directory, found, trace, read_calibration(bundle), title=f"Routing policies: {name}", origin=origin
    )
    typer.echo(f"wrote {len(files)} files; open {files[-1]}", err=True)


def _print(found: Comparison, bundle: Bundle, source: Source) -> None:
    rows = []
    for name, scored in sorted(found.policies.items(), key=lambda item: item[1].cost):
        drop, saved = scored.interval.drop_points, scored.interval.reduction
        rows.append(
            (
                f"{name} (default)" if name == found.default else name,
                percent(scored.accuracy),
                f"{scored.drop_points:+.2f} [{drop.low:+.2f}, {drop.high:+.2f}]",
                number(scored.cost, 2),
                f"{percent(scored.reduction)} [{percent(saved.low)}, {percent(saved.high)}]",
                " / ".join(f"{100 * share:.0f}" for share in scored.shares.values()),
                number(scored.payload_bytes_per_request, 0),
            )
        )
    columns = ("policy", found.setting.metric, "drop, points", "cost", "reduction", "device/edge/cloud %", "bytes")
    print_table(f"{bundle.manifest.name} {bundle.revision} on {source.file}, {found.samples} samples", columns, rows)
    cost = found.document()["cost"]
    constants = ", ".join(f"{name} {value:g}" for name, value in cost["constants"].items())
    typer.echo(
        f"cost model {cost['model']} ({constants}); cloud-only costs {cost['cloud_only']:g} layers of the device"
    )
    typer.echo("intervals: 95 %, paired bootstrap; thresholds and routers come from the bundle's kept-back split")
    if source.is_seen:
        typer.echo("WARNING: the bundle learned from this very file, so these numbers flatter it")
    for name, reason in found.left_out.items():
        typer.echo(f"left out: {name}: {reason}")
