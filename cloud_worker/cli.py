"""``dimee cloud``."""

from pathlib import Path
from typing import Annotated

import typer

from cloud_worker import build
from common.config.load import load
from common.config.settings import CloudSettings
from common.service.lifecycle import Stopping

app = typer.Typer(no_args_is_help=True, help="Run a cloud worker: the last layers.")


@app.callback()
def cloud() -> None:
    """Run a cloud worker: the last layers."""


@app.command()
def run(
    config: Annotated[Path | None, typer.Option(help="TOML file; DIMEE_SECTION__KEY overrides it.")] = None,
) -> None:
    """Serve until stopped. Example: dimee cloud run --config cloud.toml."""
    stopping = Stopping()
    stopping.on_signals()
    build.run(load(CloudSettings, config), stopping)
