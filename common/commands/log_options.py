"""What the commands of ``dimee log`` share: options, the opened log, and files that are never half-written."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from common.errors import ConfigError, StoreError
from common.store.engine import Engine, readable_log
from common.store.export import ExportFormat
from common.store.moments import moment
from common.store.queries import Filters
from common.types import Reason, Tier

DEFAULT_URL = "sqlite:///dimee-log.sqlite"
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


@contextmanager
def opened(db: str) -> Iterator[Engine]:
    """Open the log for reading; what is wrong with the option is the operator's."""
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(readable_log(db))
        except StoreError as exc:
            raise ConfigError(str(exc)) from exc  # the option is wrong, not the disk
        yield engine


def filters_of(
    tier: Tier | None,
    device: str | None,
    label: str | None,
    reason: Reason | None,
    *,
    since: str | None,
    until: str | None,
) -> Filters:
    """Turn the options into filters."""
    now = time.time()
    return Filters(
        tier=tier,
        device=device,
        label=label,
        reason=reason,
        since=None if since is None else moment(since, now),
        until=None if until is None else moment(until, now),
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a draft beside the file, which takes its place at the end, so that nothing is ever half-written."""
    if path.is_dir():
        raise ConfigError(f"--out {path}: is a folder; name a file")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as exc:
        raise ConfigError(f"--out {path}: cannot be written: {exc.strerror}") from exc
    partial = Path(name)
    try:
        os.close(handle)
        yield partial
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
