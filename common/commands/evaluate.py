"""``dimee evaluate``: every policy on the same exits, with its constants and intervals."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from common.cli.output import print_json, print_table
from common.commands.evaluate_codecs import ALL_CODECS, evaluate_codecs
from common.errors import ConfigError
from common.evaluation.comparison import ALL
from common.evaluation.evaluation import Evaluation, Studies, chosen_metric, evaluate_file
from common.evaluation.labelled import check_unseen
from common.evaluation.measured import measure_cost
from common.evaluation.tables import (
    COVERAGE_COLUMNS,
    PROMISE_COLUMNS,
    coverage_rows,
    footnotes,
    policy_columns,
    policy_rows,
    promise_rows,
)
from common.evaluation.trace import read_calibration
from common.evaluation.tracing import Progress
from common.model.bundle import SHIPPED, open_bundle
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
    codec: Annotated[str, typer.Option(help="float32, float16, int8 or int4 on the links; or all.")] = "int8",
    metric: Annotated[str | None, typer.Option(help="accuracy or matthews; the bundle's own by default.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="onnxruntime threads.")] = 1,
    studies: Annotated[bool, typer.Option("--studies", help="Also: routers at equal coverage, promises kept.")] = False,
    allow_seen: Annotated[bool, typer.Option("--allow-seen", help="Report on data the bundle learned from.")] = False,
    report: Annotated[Path | None, typer.Option(help="Draw figures and an HTML page into this directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Score routing policies on labelled data. Example: dimee evaluate --data dev.tsv --policy all."""
    opened = open_bundle(bundle)
    if codec == ALL_CODECS:
        task_metric, told = chosen_metric(opened, metric), progress("sending")
        source = check_unseen(opened, data, allow_seen=allow_seen)
        evaluate_codecs(opened, source, data, metric=task_metric, progress=told, report=report, as_json=as_json)
        return
    if codec == "graded":
        raise ConfigError("--codec graded: its bytes depend on what is sent; --codec all measures them")
    made = evaluate_file(
        opened,
        data,
        cost=cost_model(cost, log),
        metric=chosen_metric(opened, metric),
        codec=codec,
        names=policy or [ALL],
        threads=threads,
        allow_seen=allow_seen,
        has_studies=studies,
        progress=progress("running all exits"),
    )
    if report is not None:
        _write_report(report, made)
    if as_json:
        print_json(made.document())
    else:
        _print(made)


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


def progress(what: str) -> Progress | None:
    """Count on a terminal; say nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if done == total or done % 50 < 1:
            sys.stderr.write(f"\r{what}: {done:,} of {total:,}" + ("\n" if done == total else ""))
            sys.stderr.flush()

    return show


def _write_report(directory: Path, made: Evaluation) -> None:
    try:
        from common.evaluation.report import write_report  # noqa: PLC0415 - matplotlib only where pictures are asked for
    except ModuleNotFoundError as exc:
        raise ConfigError(f"--report needs {exc.name!r}; install it with pip install 'dimee[evaluate]'") from exc
    bundle, source = made.bundle, made.source
    name = bundle.manifest.name
    origin = {"bundle": name, "revision": bundle.revision, "data": source.file, "sha256": source.sha256[:16]}
    files = write_report(
        directory, made.found, made.trace, read_calibration(bundle), title=f"Routing policies: {name}", origin=origin
    )
    typer.echo(f"wrote {len(files)} files; open {files[-1]}", err=True)


def _print(made: Evaluation) -> None:
    found = made.found
    manifest, source = made.bundle.manifest, made.source
    heading = f"{manifest.name} {manifest.revision} on {source.file}, {found.samples} samples"
    print_table(heading, policy_columns(found), policy_rows(found))
    for line in footnotes(made):
        typer.echo(line)
    if made.studies is not None:
        _print_studies(made.studies)


def _print_studies(studies: Studies) -> None:
    told = f"on {studies.samples:,} held-out samples"
    print_table(f"learned router against entropy, five folds {told}", COVERAGE_COLUMNS, coverage_rows(studies))
    if studies.promises:
        print_table(f"promises over the next answers, random splits {told}", PROMISE_COLUMNS, promise_rows(studies))
