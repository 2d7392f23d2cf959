"""``dimee device``."""

import sys
import threading
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from common.config.load import load
from common.config.settings import DeviceSettings, Metrics, Outbox
from common.service.lifecycle import Stopping, keep_loaded
from common.transport.contract import Inbox
from common.wire.documents import answer_document, encode_document
from device_agent import sources
from device_agent.build import start_agent
from device_agent.explanation import explain
from device_agent.serving import Serving

app = typer.Typer(no_args_is_help=True, help="Run a device agent, or ask it one question.")
Config = Annotated[Path | None, typer.Option(help="TOML file; DIMEE_SECTION__KEY overrides it.")]


@app.callback()
def device() -> None:
    """Run a device agent, or ask it one question."""


@app.command()
def run(
    *,
    config: Config = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read one text per line; stop at the end.")] = False,
    watch: Annotated[Path | None, typer.Option(help="Follow a file of texts or JSON lines.")] = None,
) -> None:
    """Answer texts from the MQTT input topic, and from stdin or a file when asked.

    Example: dimee device run --config device.toml --watch /var/log/reviews.jsonl
    """
    settings = load(DeviceSettings, config)
    stopping = Stopping()
    stopping.on_signals()
    inbox = Inbox(settings.mqtt.max_inbox)
    agent = start_agent(settings, stopping, inputs=inbox)
    remembered = settings.outbox.max_remembered
    keep_loaded()
    with Serving(agent, sys.stdout.buffer, stopping, max_remembered=remembered) as serving, agent:
        listener = threading.Thread(target=serving.listen, args=(sources.from_inbox(inbox),), name="input-topic")
        listener.start()
        try:
            if stdin:
                serving.serve(sources.from_stream(sys.stdin.buffer, stopping))
            elif watch:
                serving.serve(sources.from_file(watch, stopping))
            else:
                stopping.wait()
        finally:
            inbox.close()
            listener.join()
    stopping.raise_error()


@app.command()
def ask(
    text: str,
    *,
    pair: Annotated[str | None, typer.Option(help="The second text, for models of pairs.")] = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Ask once and explain the answer. Example: dimee device ask "a fine film" --config device.toml."""
    settings = load(DeviceSettings, config)
    node = msgspec.structs.replace(settings.node, id=f"{settings.node.id}-ask")  # beside a running agent
    # the metrics' port and the outbox's file are the running agent's
    alone = msgspec.structs.replace(settings, node=node, metrics=Metrics(), outbox=Outbox())
    stopping = Stopping()
    with start_agent(alone, stopping) as agent:
        answer = agent.classify(text, pair)
        typer.echo(encode_document(answer_document(answer)) if as_json else explain(answer))
    stopping.raise_error()
