"""``dimee broker``: a small MQTT broker for a demo or a home without Mosquitto."""

import signal
import threading

import typer

from common.errors import DimeeError
from common.transport.embedded import EmbeddedBroker

app = typer.Typer(no_args_is_help=True, help="Run the embedded MQTT broker.")


@app.callback()
def broker() -> None:
    """Run the embedded MQTT broker."""


@app.command()
def run(
    host: str = typer.Option("127.0.0.1", help="Address to listen on; beyond loopback only with --tls-folder."),
    port: int = typer.Option(1883, min=0, max=65535, help="Port; 0 lets the system choose and says which."),
    tls_folder: str | None = typer.Option(
        None, help="Folder with ca.pem, certificate.pem, key.pem, crl.pem and acl of 'dimee certs'."
    ),
) -> None:
    """Serve until Ctrl-C or SIGTERM. Example: dimee broker run --port 18830."""
    stopping = threading.Event()
    crashes: list[DimeeError] = []

    def crash(failure: DimeeError) -> None:
        crashes.append(failure)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with EmbeddedBroker(host, port, tls_folder=tls_folder, on_fatal=crash) as running:
        typer.echo(f"broker listens on {running.host}:{running.port}; stop it with Ctrl-C")
        stopping.wait()
    if crashes:
        raise crashes[0]
