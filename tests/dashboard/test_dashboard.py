"""The page in a real browser, over a real log and a real broker: live, safe, on a phone and by keyboard."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import free_port, wait_until_listening

from common.config.document import write_settings
from common.store.engine import readable_log, writable_log
from common.store.writer import RequestLogWriter
from common.transport.contract import Presence
from common.types import Answer, Hop, NodeStatus, Pool, Reason, Record, Tier
from common.wire.documents import encode_document

pytest.importorskip("starlette", reason="pip install 'dimee[dashboard]'")

from common.dashboard.site import Site

pytestmark = pytest.mark.broker
LIMIT_S = 60.0
LIMIT_MS = LIMIT_S * 1000
EVIL = "<img src=x onerror=\"document.title='stolen'\">"


def record(request_id: str, tier: Tier = Tier.EDGE, **fields: Any) -> Record:
    hops = (
        Hop(tier=Tier.DEVICE, node="pi-1", start=0, end=2, queue_ms=0.5, compute_ms=2.0, confidence=0.6),
        Hop(
            tier=tier, node="edge-1", start=2, end=4, queue_ms=1.0, compute_ms=3.0, received_bytes=900, confidence=0.97
        ),
    )
    answer = {
        "request_id": request_id,
        "device_id": "pi-1",
        "model_revision": "abc",
        "reason": Reason.CONFIDENT,
        "label": "positive",
        "confidence": 0.97,
        "exit_layer": 4,
        "exit_tier": tier,
        "entry_tier": Tier.DEVICE,
        "total_ms": 12.5,
        "threshold": 0.9,
        "pool": Pool.MODERATE,
        "tokens": 7,
        "payload_bytes": 900,
        "cost": 4.2,
        "cost_model": "paper",
        "hops": hops,
    }
    return Record(answer=Answer(**(answer | fields)), created_at=time.time(), true_label="positive")


class Running:
    """A dashboard process over a log that the test writes."""

    def __init__(self, port: int, writer: RequestLogWriter) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.writer = writer


@pytest.fixture
def dashboard(mosquitto: Any, tmp_path: Path) -> Iterator[Running]:
    config, log, port = tmp_path / "edge.toml", tmp_path / "log.sqlite", free_port()
    chosen = {"node.id": "edge-1", "mqtt.port": mosquitto.port, "log.url": f"sqlite:///{log}"}
    config.write_text(write_settings(Tier.EDGE, chosen), encoding="utf-8")
    command = [sys.executable, "-m", "common.cli", "dashboard", "--config", str(config), "--port", str(port)]
    with writable_log(str(log)) as engine, RequestLogWriter(engine) as writer, subprocess.Popen(command) as process:
        wait_until_listening("127.0.0.1", port, limit_s=LIMIT_S)
        yield Running(port, writer)
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)
    assert process.returncode in (0, 130, -signal.SIGINT)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only looked for
    except ModuleNotFoundError:
        found = None
    if found is None:
        message = "needs a browser (Debian: apt-get install chromium; pip install playwright)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test when it asks another host or meets an error of its own."""
    found = browser.new_page()
    found.set_default_timeout(LIMIT_MS)
    complaints: list[str] = []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("request", lambda asked: complaints.append(asked.url) if "//127.0.0.1" not in asked.url else None)
    yield found
    found.close()
    assert complaints == []


def online(node: str = "edge-1") -> Presence:
    status = NodeStatus(state="online", tier=Tier.EDGE, node=node, model_revision="abc123")
    return Presence(
        topic=f"dimee/v1/home/status/edge/{node}",
        online=lambda: encode_document(status),
        stopped=lambda: encode_document(status),
        gone=encode_document(status.gone()),
    )


def get(port: int, path: str, host: str | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    connection.request("GET", path, headers={"Host": host} if host else {})
    return connection.getresponse()


def test_a_request_and_a_vanished_node_appear_by_themselves(dashboard: Running, page: Any, mosquitto: Any) -> None:
    page.goto(dashboard.url)
    with mosquitto.transport("edge-1", presence=online()) as transport:
        page.get_by_text("revision abc123").wait_for()

        dashboard.writer.append(record("req-1"))
        page.get_by_role("link", name="req-1").wait_for()
        page.get_by_text("median 1 ms waiting, 3 ms computing").wait_for()
        page.locator("#accuracy .s-right").wait_for(state="attached")
        dashboard.writer.append(record("req-2", label="negative"))
        page.locator("#accuracy .s-wrong").wait_for(state="attached")
        mosquitto.vanish(transport)
        transport._stopping.set()  # it does not come back
        page.get_by_text("offline", exact=True).wait_for()

    assert page.locator("#link").inner_text() == "live"
    assert "50.0 % of 2" in page.locator("#figures").inner_text()


def test_a_requests_page_explains_its_way(dashboard: Running, page: Any) -> None:
    dashboard.writer.append(record("req-1"))
    page.goto(dashboard.url)

    page.get_by_role("link", name="req-1").focus()
    page.keyboard.press("Enter")
    page.get_by_text("The edge answered positive after layer 4").wait_for()

    assert "97.0 % sure, and 90.0 % was asked for" in page.locator("#story").inner_text()
    assert page.locator("#way li").count() == 2
    page.goto(f"{dashboard.url}/requests/nobody")
    page.get_by_text("the log holds no such request").wait_for()


def test_text_from_the_log_stays_text(dashboard: Running, page: Any) -> None:
    dashboard.writer.append(record(EVIL, label=EVIL, device_id="pi<b>"))
    page.goto(dashboard.url)

    page.get_by_role("link", name=EVIL).wait_for()

    assert page.title() == "dimee"
    assert page.locator("tbody img, tbody b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_and_is_legible(
    dashboard: Running, browser: Any, scheme: str, width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for number in range(30):
        dashboard.writer.append(record(f"req-{number}", list(Tier)[number % 3]))
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(dashboard.url)
    page.get_by_role("link", name="req-29").wait_for(timeout=LIMIT_MS)

    page.screenshot(path=tmp_path_factory.getbasetemp() / f"dashboard-{scheme}-{width}.png", full_page=True)
    widest = page.evaluate("document.documentElement.scrollWidth")
    text, back = (page.evaluate(f"getComputedStyle(document.body).{key}") for key in ("color", "backgroundColor"))
    page.close()

    assert widest <= width
    assert contrast(text, back) > 7


def contrast(text: str, back: str) -> float:
    """Give the contrast ratio of two CSS colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(text), luminance(back)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_foreign_names_paths_and_writes_are_refused(dashboard: Running) -> None:
    assert get(dashboard.port, "/", host="evil.example").status == 400
    assert get(dashboard.port, "/static/..%2f..%2f__init__.py").status == 404
    assert get(dashboard.port, "/api/requests/nobody").status == 404
    assert "default-src 'self'" in str(get(dashboard.port, "/").headers["content-security-policy"])
    connection = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=LIMIT_S)
    connection.request("POST", "/api/requests/x", b"{}")
    assert connection.getresponse().status == 405


def test_readers_are_bounded_and_leave_room_again(dashboard: Running) -> None:
    streams = [get(dashboard.port, "/api/events") for _ in range(33)]
    states = [stream.status for stream in streams]
    for stream in streams:
        stream.close()

    deadline = time.monotonic() + LIMIT_S
    while get(dashboard.port, "/api/events").status != 200:
        assert time.monotonic() < deadline

    assert sorted(states) == [*[200] * 32, 503]


def test_the_view_stays_bounded_whatever_comes(tmp_path: Path) -> None:
    path = str(tmp_path / "log.sqlite")
    committed = threading.Event()
    with writable_log(path) as engine, readable_log(path) as reader:
        with RequestLogWriter(engine, lambda _: committed.set()) as writer:
            site = Site(reader, None)
            for number in range(6000):
                writer.append(record(f"req-{number}"))
        view = site.look()
        sizes = [len(json.dumps(encode_document(site.look()).decode())) for _ in range(3)]

    assert sum(sum(minute.answered.values()) for minute in view.minutes) == 6000
    assert (len(view.requests), len(view.minutes)) == (100, 60)
    assert [(part.node, part.queue_ms, part.compute_ms) for part in view.parts] == [
        ("edge-1", 1.0, 3.0),
        ("pi-1", 0.5, 2.0),
    ]
    assert max(sizes) < 100_000


def test_a_log_that_does_not_exist_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "common.cli", "dashboard", "--db", str(tmp_path / "none.sqlite")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "there is no such log" in done.stderr


def test_a_page_that_is_started_with_its_edge_waits_for_the_log(mosquitto: Any, tmp_path: Path) -> None:
    config, log, port = tmp_path / "edge.toml", tmp_path / "log.sqlite", free_port()
    chosen = {"node.id": "edge-1", "mqtt.port": mosquitto.port, "log.url": f"sqlite:///{log}"}
    config.write_text(write_settings(Tier.EDGE, chosen), encoding="utf-8")
    command = [sys.executable, "-m", "common.cli", "dashboard", "--config", str(config), "--port", str(port)]

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        with writable_log(str(log)):
            wait_until_listening("127.0.0.1", port, limit_s=LIMIT_S)
            reply = get(port, "/")
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)

    assert "no log yet; waiting" in first
    assert reply.status == 200
