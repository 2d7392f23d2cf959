"""Whether the dashboard's page grows while a site is busy: a real browser watches requests come in for some minutes.

``python benchmarks/dashboard_soak.py --minutes 10 --rate 50 --screenshot page.png`` needs chromium and playwright. It
writes records into a log of its own, and prints the page's JavaScript heap after a forced collection, its elements, and
the server's memory, minute by minute, as Markdown.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.commands.fleet import open_broker
from common.config.document import write_settings
from common.config.settings import Mqtt
from common.service.presence import Standing, presence
from common.store.engine import writable_log
from common.store.writer import RequestLogWriter
from common.transport.mqtt import MqttTransport
from common.types import TIERS, Answer, Hop, Reason, Record, Tier
from common.wire.topics import Topics

_PORT = 18_080
_LAYERS = {Tier.DEVICE: 2, Tier.EDGE: 4, Tier.CLOUD: 6}
_START_LIMIT_MS = 120_000


def record(number: int, draw: random.Random) -> Record:
    """Make up a request as the shipped bundle would leave it."""
    tier = draw.choices(TIERS, (65, 27, 8))[0]
    label = draw.choice(("negative", "positive"))
    device = f"pi-{number % 3 + 1}"
    nodes = {Tier.DEVICE: device, Tier.EDGE: "edge-1", Tier.CLOUD: "cloud-1"}
    hops = tuple(
        Hop(tier=one, node=nodes[one], start=_LAYERS[one] - 2, end=_LAYERS[one], queue_ms=0.1, compute_ms=1.0)
        for one in TIERS[: TIERS.index(tier) + 1]
    )
    answer = Answer(
        request_id=f"{int(time.time() * 1000):012x}{number:012x}",
        device_id=device,
        model_revision="0123456789abcdef",
        reason=Reason.FINAL if tier is Tier.CLOUD else Reason.CONFIDENT,
        label=label,
        confidence=draw.uniform(0.75, 1.0),
        exit_layer=_LAYERS[tier],
        exit_tier=tier,
        entry_tier=Tier.DEVICE,
        total_ms=draw.lognormvariate(1.0, 0.7),
        threshold=None if tier is Tier.CLOUD else 0.75,
        tokens=draw.randint(8, 40),
        payload_bytes=0 if tier is Tier.DEVICE else 9000,
        cost=1.0 * sum((2, 5, 4)[: len(hops)]),
        cost_model="paper",
        hops=hops,
    )
    is_right = draw.random() < 0.9
    other = "positive" if label == "negative" else "negative"
    return Record(answer=answer, created_at=time.time(), true_label=label if is_right else other)


def write(writer: RequestLogWriter, rate: float, until: float, first: int) -> int:
    """Write records at a rate; give the next number."""
    draw, number, due = random.Random(first), first, time.monotonic()  # noqa: S311 - made-up requests
    while (now := time.monotonic()) < until:
        while due <= now:
            writer.append(record(number, draw))
            number, due = number + 1, due + 1 / rate
        time.sleep(0.02)
    return number


def measure(page: Any, session: Any, server: subprocess.Popen[bytes]) -> tuple[float, int, float]:
    """Give the page's heap in MB, its elements, and the server's memory in MB."""
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    elements = page.evaluate("document.getElementsByTagName('*').length")
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return heap, elements, pages * 4096 / 1e6


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--screenshot", type=Path)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where a browser is

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        broker = stack.enter_context(open_broker("mosquitto", folder))
        log, config = folder / "log.sqlite", folder / "edge.toml"
        chosen = {"node.id": "edge-1", "mqtt.port": broker.port, "log.url": f"sqlite:///{log}"}
        config.write_text(write_settings(Tier.EDGE, chosen), encoding="utf-8")
        writer = stack.enter_context(RequestLogWriter(stack.enter_context(writable_log(str(log)))))
        for tier, node in (
            (Tier.EDGE, "edge-1"),
            (Tier.CLOUD, "cloud-1"),
            *((Tier.DEVICE, f"pi-{n}") for n in (1, 2, 3)),
        ):
            status = presence(tier, node, Topics("home"), Standing(revision="0123456789abcdef"))
            transport = MqttTransport(Mqtt(port=broker.port), client_id=node, presence=status)
            stack.enter_context(transport)
        command = [sys.executable, "-m", "common.cli", "dashboard", "--config", str(config), "--port", str(_PORT)]
        server = stack.enter_context(subprocess.Popen(command))  # noqa: S603 - our own command
        stack.callback(server.terminate)
        playwright = stack.enter_context(sync_playwright())
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": 1100, "height": 1000})
        page.set_default_timeout(_START_LIMIT_MS)
        number = write(writer, options.rate, time.monotonic() + 5, 0)
        page.goto(f"http://127.0.0.1:{_PORT}/")
        page.locator("#requests tr").first.wait_for()
        session = page.context.new_cdp_session(page)
        sys.stdout.write("| minute | requests | heap MB | elements | server MB |\n| --- | --- | --- | --- | --- |\n")
        for minute in range(options.minutes + 1):
            heap, elements, server_mb = measure(page, session, server)
            sys.stdout.write(f"| {minute} | {number:,} | {heap:.2f} | {elements} | {server_mb:.1f} |\n")
            sys.stdout.flush()
            if minute < options.minutes:
                number = write(writer, options.rate, time.monotonic() + 60, number)
            if options.screenshot and minute == min(2, options.minutes - 1):
                page.screenshot(path=options.screenshot)


if __name__ == "__main__":
    main()
