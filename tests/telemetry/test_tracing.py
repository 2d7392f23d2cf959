"""One trace through all tiers: right parents at a real collector, and no harm where there is none."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from brokers import free_port
from tiers import running

import cloud_worker.build
import edge_broker.build
from common.config.settings import (
    CloudSettings,
    DeviceSettings,
    DeviceTracing,
    EdgeLog,
    EdgeSettings,
    Model,
    Node,
    Routing,
)
from common.engine.choice import routing_table
from common.errors import ConfigError
from common.model.bundle import open_bundle
from common.model.derivation import derive
from common.model.manifest import ROUTING_FILE
from common.routing.policies import ConfidenceCascade
from common.service.lifecycle import Stopping
from common.service.telemetry.telemetry import open_tracer
from common.service.telemetry.tracing import NOWHERE, NoTracer, Span
from common.types import Answer, Tier
from common.wire.documents import decode_input
from common.wire.trace_context import TraceContext, parse_traceparent
from device_agent.build import start_agent

otlp = pytest.importorskip("common.service.telemetry.otlp", reason="pip install 'dimee[tracing]'")
proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
ASKING = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LIMIT_S = 60.0


class Collector:
    """An OTLP receiver on loopback: decodes what is posted, and can keep its answer back."""

    def __init__(self) -> None:
        self.spans: queue.Queue[Any] = queue.Queue()
        self.services: set[str] = set()
        self.may_answer = threading.Event()
        self.may_answer.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                collector.may_answer.wait(LIMIT_S)
                collector.take(proto.ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def take(self, request: Any) -> None:
        for resource in request.resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.services.add(named["service.name"])
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.put(span)

    def all(self) -> list[Any]:
        return [self.spans.get_nowait() for _ in range(self.spans.qsize())]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running_:
        yield running_


@pytest.fixture
def site(mosquitto: Any, tiny_bundle: Path, tmp_path: Path) -> Callable[..., Any]:
    """Give the settings of three tiers of which none but the cloud is sure, each with the tracing it is given."""
    source = open_bundle(tiny_bundle)
    table = routing_table(source)
    unsure = msgspec.structs.replace(table, policies={**table.policies, "unsure": ConfidenceCascade(thresholds={})})
    bundle = derive(source, tmp_path / "bundle", {ROUTING_FILE: msgspec.json.encode(unsure)})

    def settings(tier: Tier, endpoint: str | None) -> Any:
        kind = {Tier.DEVICE: DeviceSettings, Tier.EDGE: EdgeSettings, Tier.CLOUD: CloudSettings}[tier]
        extra = {"log": EdgeLog(url=f"sqlite:///{tmp_path / 'log.sqlite'}")} if tier is Tier.EDGE else {}
        return kind(
            node=Node(id=f"{tier}-1"),
            mqtt=mosquitto.settings(),
            model=Model(bundle=str(bundle.directory)),
            routing=Routing(policy="unsure"),
            tracing=DeviceTracing(endpoint=endpoint),
            **extra,
        )

    return settings


def ask_until_cloud_answers(site: Callable[..., Any], endpoints: dict[Tier, str | None], **how: Any) -> Answer:
    with (
        running(edge_broker.build, site(Tier.EDGE, endpoints.get(Tier.EDGE))),
        running(cloud_worker.build, site(Tier.CLOUD, endpoints.get(Tier.CLOUD))),
        start_agent(site(Tier.DEVICE, endpoints.get(Tier.DEVICE)), Stopping()) as agent,
    ):
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:  # the first ones may come before the tiers listen
            answer = agent.classify("a fine warm film", **how)
            if [hop.tier for hop in answer.hops] == list(Tier) and answer.attempts == 1:
                return answer
    pytest.fail("no text went through all tiers")


@pytest.mark.broker
def test_a_request_through_three_tiers_is_one_trace_with_the_right_parents(
    site: Callable[..., Any], collector: Collector
) -> None:
    answer = ask_until_cloud_answers(site, dict.fromkeys(Tier, collector.endpoint))

    spans = [span for span in collector.all() if span.trace_id.hex() == answer.trace_id]
    by_id = {span.span_id: span for span in spans}
    way = {(span.name, _attribute(span, "dimee.tier")): by_id.get(span.parent_span_id) for span in spans}
    parents = {
        key: None if found is None else (found.name, _attribute(found, "dimee.tier")) for key, found in way.items()
    }
    assert parents == {
        ("request", "cloud"): None,
        ("compute", "device"): ("request", "cloud"),
        ("network", "device"): ("request", "cloud"),
        ("hop", "edge"): ("network", "device"),
        ("queue", "edge"): ("hop", "edge"),
        ("compute", "edge"): ("hop", "edge"),
        ("network", "edge"): ("hop", "edge"),
        ("hop", "cloud"): ("network", "edge"),
        ("queue", "cloud"): ("hop", "cloud"),
        ("compute", "cloud"): ("hop", "cloud"),
    }
    assert len(spans) == len(parents)
    assert collector.services == {"dimee-device", "dimee-edge", "dimee-cloud"}
    root = next(span for span in spans if span.name == "request")
    assert not root.parent_span_id
    assert (_attribute(root, "dimee.exit_layer"), _attribute(root, "dimee.reason")) == (3, str(answer.reason))
    assert (root.end_time_unix_nano - root.start_time_unix_nano) / 1e6 == pytest.approx(answer.total_ms, abs=0.01)
    for hop in answer.hops:
        (compute,) = [s for s in spans if (s.name, _attribute(s, "dimee.tier")) == ("compute", str(hop.tier))]
        spent_ms = (compute.end_time_unix_nano - compute.start_time_unix_nano) / 1e6
        assert spent_ms == pytest.approx(hop.compute_ms, abs=0.01)


@pytest.mark.broker
def test_a_tier_that_traces_nothing_passes_the_applications_trace_on(
    site: Callable[..., Any], collector: Collector
) -> None:
    asking = parse_traceparent(ASKING)
    assert asking is not None

    answer = ask_until_cloud_answers(site, {Tier.CLOUD: collector.endpoint}, traceparent=ASKING)

    assert answer.trace_id == asking.trace_id
    hops = [span for span in collector.all() if span.name == "hop"]
    assert hops
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in hops} == {(asking.trace_id, asking.span_id)}


def test_an_application_sends_its_traceparent_in_the_json_input() -> None:
    sent = decode_input(f'{{"text": "a fine film", "traceparent": "{ASKING}"}}'.encode())

    place = NoTracer().join(sent.traceparent or "")

    assert str(place.onward) == ASKING


def test_without_an_endpoint_a_device_is_in_no_trace_and_imports_nothing_for_it() -> None:
    tracer = open_tracer(DeviceTracing(), Tier.DEVICE, "pi-1")

    assert isinstance(tracer, NoTracer)
    assert tracer.join("") == NOWHERE
    assert tracer.join(b"").traceparent == b""


@pytest.mark.parametrize("tier", [Tier.DEVICE, Tier.EDGE])
@pytest.mark.parametrize("is_traced", [True, False])
def test_an_invalid_traceparent_is_counted_and_the_trace_begins_anew(
    tier: Tier, is_traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tracer = open_tracer(DeviceTracing(endpoint="http://127.0.0.1:9" if is_traced else None), tier, "n")

    with caplog.at_level(logging.WARNING):
        places = [tracer.join("\x1b[2J" + ASKING) for _ in range(5)]

    assert tracer.counters()["invalid"] == 5
    assert [place.own is not None for place in places] == [is_traced] * 5
    assert all(place.parent is None for place in places)
    assert len(caplog.messages) == 3  # the 1st, 2nd and 4th
    assert "\x1b" not in caplog.text


def test_only_a_device_begins_a_trace_and_only_for_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = open_tracer(DeviceTracing(endpoint="http://127.0.0.1:9"), Tier.EDGE, "edge-1")
    device = open_tracer(DeviceTracing(endpoint="http://127.0.0.1:9", sample_rate=0.25), Tier.DEVICE, "pi-1")
    draws = iter([0.24, 0.25, 0.99])
    monkeypatch.setattr("random.random", lambda: next(draws))

    begun = [device.join("").own is not None for _ in range(3)]

    assert begun == [True, False, False]
    assert edge.join("") == NOWHERE
    assert device.join(ASKING).parent == parse_traceparent(ASKING)  # who asks has drawn already


def test_what_its_caller_does_not_sample_is_passed_on_and_not_told() -> None:
    tracer = open_tracer(DeviceTracing(endpoint="http://127.0.0.1:9"), Tier.DEVICE, "pi-1")
    unsampled = ASKING[:-2] + "00"

    place = tracer.join(unsampled)

    assert (place.own, str(place.onward)) == (None, unsampled)


def _span() -> Span:
    return Span("hop", TraceContext.fresh(), None, "consumer", time.time(), 1.0, {"dimee.tier": "edge"})


def test_an_unreachable_collector_is_one_warning_and_its_spans_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    tracer = otlp.OtlpTracer(f"http://127.0.0.1:{free_port()}", Tier.EDGE, "edge-1", sample_rate=1.0)

    with caplog.at_level(logging.WARNING), tracer:
        tracer.tell([_span()])
        tracer.tell([_span()])

    assert (tracer.counters()["failed"], tracer.counters()["exported"]) == (2, 0)
    assert [record.name for record in caplog.records] == [otlp.__name__]
    assert "takes no spans" in caplog.text


def test_a_slow_collector_holds_nobody_up_and_what_has_no_place_is_counted(collector: Collector) -> None:
    collector.may_answer.clear()
    told = otlp.MAX_WAITING + 2000  # more than a batch beyond what may wait

    with otlp.OtlpTracer(collector.endpoint, Tier.EDGE, "edge-1", sample_rate=1.0) as tracer:
        tracer.tell([_span() for _ in range(told)])  # returns while the collector says nothing
        assert tracer.counters()["exported"] == 0
        dropped = tracer.counters()["dropped"]
        collector.may_answer.set()

    assert dropped > 0
    assert tracer.counters()["exported"] + tracer.counters()["failed"] + dropped == told


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://"])
def test_an_endpoint_that_is_no_http_url_is_refused_with_an_example(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"tracing\.endpoint .* e\.g\. http://collector:4318"):
        open_tracer(DeviceTracing(endpoint=endpoint), Tier.DEVICE, "pi-1")


def _attribute(span: Any, name: str) -> Any:
    for each in span.attributes:
        if each.key == name:
            return getattr(each.value, each.value.WhichOneof("value"))
    return None
