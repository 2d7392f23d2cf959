"""``dimee``: the root command, its exit codes and its log."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, ClassVar

import typer

from common.cli.groups import LazyGroup
from common.errors import ConfigError, DimeeError


class RootGroup(LazyGroup):
    """The command groups of all tiers."""

    entry_point_group: ClassVar[str] = "dimee.commands"
    summaries: ClassVar[dict[str, str]] = {
        "audit": "Attack what leaves a board.",
        "bench": "Measure this machine and the pipeline.",
        "broker": "Run the embedded MQTT broker.",
        "certs": "Certificates of a site's nodes.",
        "cloud": "Run a cloud worker: the last layers.",
        "config": "Show or check the settings in force.",
        "dashboard": "Show the site on a web page, live.",
        "demo": "Run all three tiers on this machine and measure them.",
        "device": "Run a device agent, or ask it one question.",
        "doctor": "Check this node and its surroundings.",
        "edge": "Run an edge: the middle layers and the log.",
        "evaluate": "Compare routing policies on labelled data.",
        "init": "Write the settings of this machine.",
        "log": "Query the inference log.",
        "model": "Train, export, verify and show bundles.",
        "plan": "Choose splits, codec and policy for given links and machines.",
        "service": "Run this machine's tier as a system service.",
    }


app = typer.Typer(
    cls=RootGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every decision, on stderr.")] = False,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Spread a transformer classifier over device, edge and cloud."""
    if show_version:
        typer.echo(f"dimee {version('dimee')}")
        raise typer.Exit
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit 0 ok, 1 failed, 2 usage or configuration."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's products are small, its idle threads spin for 100 ms
    try:
        app(args=list(arguments) if arguments is not None else None)
    except ConfigError as exc:
        typer.echo(f"dimee: {exc}", err=True)
        sys.exit(2)
    except DimeeError as exc:
        typer.echo(f"dimee: {exc}", err=True)
        sys.exit(1)
