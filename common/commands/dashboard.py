"""``dimee dashboard``: the site on a web page, live."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from common.commands.log_options import DEFAULT_URL
from common.config.load import load
from common.config.settings import EdgeSettings
from common.dashboard.server import make_app
from common.dashboard.site import CloudOnly, Site
from common.errors import ConfigError, DimeeError, StoreError
from common.model.bundle import open_bundle
from common.routing.cost import CostModel
from common.store.engine import Engine, readable_log, sqlite_file
from common.store.queries import find
from common.transport.contract import Inbox
from common.transport.mqtt import MqttTransport
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)
_MOST_STATUSES = 10_000
_FIRST_START_S = 60.0  # of an edge on a small machine
_INT8_BYTES_PER_TOKEN = 2  # the scale
_MESSAGE_BYTES = 120  # all but the tensors, of a message without hops


def dashboard(
    *,
    config: Annotated[Path | None, typer.Option(help="An edge's settings: its log and its broker.")] = None,
    db: Annotated[str | None, typer.Option("--db", metavar="URL_OR_PATH", help="Another log.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other machines see the page only if asked.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Show the site on a web page until Ctrl-C. Example: dimee dashboard --config edge.toml.

    It reads the log and the retained statuses, and has no login: for other machines put a reverse proxy in front.
    """
    settings = None if config is None else load(EdgeSettings, config)
    url = db or (DEFAULT_URL if settings is None else settings.log.url)
    with ExitStack() as stack:
        log = stack.enter_context(_log(url, may_wait=db is None and settings is not None))
        site = Site(log) if settings is None else _site(log, settings, stack)
        failures: list[BaseException] = []

        def fail(failure: BaseException) -> None:
            failures.append(failure)
            server.should_exit = True

        hosts = ["*"] if host not in ("127.0.0.1", "localhost", "::1") else ["127.0.0.1", "localhost", "[::1]"]
        app = make_app(site.look, lambda request_id: find(log, request_id), on_failure=fail, hosts=hosts)
        server = uvicorn.Server(
            uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)
        )
        typer.echo(f"dashboard on http://{host}:{port}; stop it with Ctrl-C", err=True)
        server.run()
    if failures:
        raise failures[0] if isinstance(failures[0], DimeeError) else StoreError(f"the dashboard ended: {failures[0]}")


@contextmanager
def _log(url: str, *, may_wait: bool) -> Iterator[Engine]:
    """Open the log; one that is not there may be on its way, where the page and its edge are started together.

    Raises:
        ConfigError: There is none, or it is none of ours.
    """
    file = sqlite_file(url)
    deadline = time.monotonic()
    if may_wait and file is not None and not file.exists():
        typer.echo(f"{file}: no log yet; waiting {_FIRST_START_S:.0f} s for an edge to make it", err=True)
        deadline += _FIRST_START_S
    with ExitStack() as stack:
        while True:
            try:
                log = stack.enter_context(readable_log(url))
                break
            except StoreError as exc:
                if time.monotonic() >= deadline:
                    raise ConfigError(str(exc)) from exc  # the option is wrong, not the disk
            time.sleep(0.1)  # nothing tells when another process has made it
        yield log


def _site(log: Engine, settings: EdgeSettings, stack: ExitStack) -> Site:
    manifest = open_bundle(settings.model.bundle).manifest
    cloud_only = CloudOnly(
        cost=CostModel().cloud_only(manifest.depths),
        bytes_per_token=manifest.hidden_size + _INT8_BYTES_PER_TOKEN,
        bytes_per_message=_MESSAGE_BYTES,
    )
    return Site(log, *_statuses(settings, stack), cloud_only=cloud_only)


def _statuses(settings: EdgeSettings, stack: ExitStack) -> tuple[Inbox, Callable[[], bool]]:
    """Follow the nodes' statuses; give where they come in, and whether they do."""
    inbox = Inbox(_MOST_STATUSES)
    transport = MqttTransport(settings.mqtt, client_id=f"{settings.node.id}-dashboard")
    transport.subscribe(Topics(settings.mqtt.site).status("+", "+"), inbox)
    stack.enter_context(transport)
    return inbox, lambda: transport.is_connected
