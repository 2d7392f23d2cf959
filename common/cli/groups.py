"""Command groups found by entry point, loaded one at a time: a device never imports what it does not run."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from common.errors import ConfigError

# of the packages that are no dependency
_EXTRAS = {
    "amqtt": "edge",
    "cryptography": "security",
    "matplotlib": "evaluate",
    "sklearn": "evaluate",
    "starlette": "dashboard",
    "uvicorn": "dashboard",
}
_TRAINING_EXTRA = "train"


class LazyGroup(TyperGroup):
    """A group whose commands are entry points; listing them loads none."""

    # typer brings its own copy of click, whose types have no public name: hence Any
    entry_point_group: ClassVar[str]
    summaries: ClassVar[dict[str, str]]

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands without loading them."""
        return sorted({*super().list_commands(ctx), *entry_points(group=self.entry_point_group).names})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load one command."""
        found = entry_points(group=self.entry_point_group, name=cmd_name)
        return _load(next(iter(found))) if found else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with their summaries."""
        own = {name: command.get_short_help_str() for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, (self.summaries | own).get(name, "")) for name in self.list_commands(ctx)])


def _load(entry_point: EntryPoint) -> Any:
    try:
        loaded = entry_point.load()
    except ModuleNotFoundError as exc:
        extra = _EXTRAS.get(exc.name or "", _TRAINING_EXTRA)
        raise ConfigError(
            f"'{entry_point.name}' needs the package {exc.name!r}, which is not installed; pip install 'dimee[{extra}]'"
        ) from exc
    if isinstance(loaded, typer.Typer):
        return typer.main.get_command(loaded)
    command = typer.Typer(rich_markup_mode=None, add_completion=False)
    command.command(entry_point.name)(loaded)
    return typer.main.get_command(command)
