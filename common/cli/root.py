"""``dimee``: loads a command group only when it is asked for, so that a device never imports what it lacks."""

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

import typer
from typer.core import TyperGroup

from common.errors import ConfigError, DimeeError

GROUP = "dimee.commands"
_SUMMARIES = {
    "broker": "Run the embedded MQTT broker.",
    "cloud": "Run a cloud worker: the last layers.",
    "demo": "Run all three tiers on this machine and measure them.",
    "device": "Run a device agent, or ask it one question.",
    "edge": "Run an edge: the middle layers and the log.",
    "evaluate": "Compare routing policies on labelled data.",
    "log": "Query the inference log.",
    "model": "Train, export, verify and show bundles.",
}


class CommandGroups(TyperGroup):
    """Command groups found by entry point, loaded one at a time."""

    # typer brings its own copy of click, whose types have no public name: hence Any

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the groups without loading them."""
        return sorted({*super().list_commands(ctx), *entry_points(group=GROUP).names})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load one group and what other packages add to it."""
        found = entry_points(group=GROUP, name=cmd_name)
        if not found:
            return super().get_command(ctx, cmd_name)
        app = _load(next(iter(found)))
        for extension in entry_points(group=f"{GROUP}.{cmd_name}"):
            app.registered_commands.extend(_load(extension).registered_commands)
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the groups with their summaries, still without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SUMMARIES.get(name, "")) for name in self.list_commands(ctx)])


app = typer.Typer(
    cls=CommandGroups,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Spread a transformer classifier over device, edge and cloud.",
)


@app.callback(invoke_without_command=True)
def root(
    *,
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log every decision, on stderr."),
    show_version: bool = typer.Option(False, "--version", help="Print the version and stop."),
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
    try:
        app(args=list(arguments) if arguments is not None else None)
    except ConfigError as exc:
        typer.echo(f"dimee: {exc}", err=True)
        sys.exit(2)
    except DimeeError as exc:
        typer.echo(f"dimee: {exc}", err=True)
        sys.exit(1)


def _load(entry_point: EntryPoint) -> typer.Typer:
    try:
        app: typer.Typer = entry_point.load()
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"'dimee {entry_point.name}' needs the package {exc.name!r}, which is not installed; "
            f"install the extra that brings it, e.g. pip install 'dimee[{_EXTRAS.get(exc.name or '', 'train')}]'"
        ) from exc
    return app


_EXTRAS = {"amqtt": "edge", "torch": "train", "transformers": "train", "onnx": "train"}
