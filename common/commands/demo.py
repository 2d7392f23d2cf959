"""``dimee demo``: all three tiers on this machine, real sentences, and what came of them."""

import secrets
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from common.cli.output import print_json
from common.commands.demo_inputs import read_inputs
from common.commands.demo_report import Report, print_report, report
from common.commands.demo_run import stream
from common.commands.fleet import fleet
from common.errors import ConfigError
from common.model.bundle import SHIPPED, open_bundle
from common.types import Tier

app = typer.Typer(rich_markup_mode=None)
_CLOSED_LOOP = {"DIMEE_DEVICE__MAX_IN_FLIGHT": "2"}  # more would show queues, not the route, as latency


@app.command()
def demo(
    *,
    inputs: Annotated[
        Path | None, typer.Option("--input", help="TSV, CSV or JSONL with labels, or plain lines.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Only the first N inputs.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Inputs per second; as fast as possible otherwise.")
    ] = None,
    bundle: Annotated[str, typer.Option(help="A bundle's directory.")] = SHIPPED,
    policy: Annotated[str, typer.Option(help="A policy of the bundle by name.")] = "default",
    broker: Annotated[str, typer.Option(help="embedded, mosquitto, or HOST:PORT.")] = "embedded",
    log: Annotated[Path | None, typer.Option(help="Keep the SQLite log here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Run device, edge and cloud on this machine and measure them. Example: dimee demo --samples 100."""
    opened = open_bundle(bundle)
    texts = read_inputs(inputs, opened.manifest)[:samples]
    site = f"demo-{secrets.token_hex(4)}"
    signal.signal(signal.SIGTERM, _leave)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dimee-demo-")))
        database = (log or directory / "log.sqlite").absolute()
        if not database.parent.is_dir():
            raise ConfigError(f"--log {database}: its directory does not exist")
        site_fleet = stack.enter_context(
            fleet(directory=directory, broker=broker, site=site, bundle=str(opened.directory.absolute()))
        )
        chosen = {"DIMEE_ROUTING__POLICY": policy}
        site_fleet.start(Tier.EDGE, f"{site}-edge", chosen | {"DIMEE_LOG__URL": f"sqlite:///{database}"})
        site_fleet.start(Tier.CLOUD, f"{site}-cloud", chosen)
        site_fleet.wait_online(f"{site}-edge", f"{site}-cloud")
        device = site_fleet.start_device(f"{site}-device", chosen | _CLOSED_LOOP)
        elapsed_s = stream(device, texts, rate=rate, shows_progress=not as_json and sys.stderr.isatty())
        result = report(database, f"{site}-device", opened.manifest, samples=len(texts), is_kept=log is not None)
    _print(result, elapsed_s, as_json=as_json)


def _print(result: Report, elapsed_s: float, *, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        print_report(result, elapsed_s)
    if result.answered != result.samples:
        raise typer.Exit(1)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
