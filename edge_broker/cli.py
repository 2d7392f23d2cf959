"""``dimee edge``."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from common.config.load import load
from common.config.settings import EdgeSettings
from common.service.lifecycle import Stopping
from edge_broker import build

app = typer.Typer(no_args_is_help=True, help="Run an edge: the middle layers and the log.")


@app.callback()
def edge() -> None:
    """Run an edge: the middle layers and the log."""


@app.command()
def run(
    *,
    config: Annotated[Path | None, typer.Option(help="TOML file; DIMEE_SECTION__KEY overrides it.")] = None,
    embedded_broker: Annotated[bool, typer.Option("--embedded-broker", help="Bring an MQTT broker along.")] = False,
) -> None:
    """Serve until stopped. Example: dimee edge run --config edge.toml --embedded-broker."""
    settings = load(EdgeSettings, config)
    if embedded_broker:
        broker = msgspec.structs.replace(settings.broker, is_enabled=True)
        settings = msgspec.structs.replace(settings, broker=broker)
    stopping = Stopping()
    stopping.on_signals()
    build.run(settings, stopping)
