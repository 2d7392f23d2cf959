"""Metrics for Prometheus; the only place that knows its client.

Every label's values are bounded by the code or the bundle: a peer can never add a series.
"""

from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.service.telemetry.vitals import Vitals
from common.types import Answer, Hop

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds
_ODD_LAYER = "other"


class PrometheusMeter:
    """Counts and times; owns its registry, so that two tiers in one process do not mix."""

    def __init__(self, exit_layers: frozenset[int]) -> None:
        self.registry = CollectorRegistry()
        self._exit_layers = exit_layers | {0}
        self._answers = Counter(
            "dimee_answers", "Requests settled.", ["tier", "exit_layer", "reason"], registry=self.registry
        )
        self._answer_seconds = Histogram(
            "dimee_answer_seconds",
            "From acceptance to answer, in all and by part.",
            ["part"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._payload_bytes = Counter(
            "dimee_payload_bytes", "Hidden states sent for settled requests, all links.", registry=self.registry
        )
        self._cost = Counter(
            "dimee_cost_layers", "Cost of settled requests, in layers of the device.", registry=self.registry
        )
        self._hop_seconds = Histogram(
            "dimee_hop_seconds", "This tier's part in a request.", ["part"], buckets=_BUCKETS, registry=self.registry
        )
        self._received_bytes = Counter(
            "dimee_hop_received_bytes", "Hidden states that came in to be run.", registry=self.registry
        )

        for part in ("total", "queue", "compute", "network"):
            self._answer_seconds.labels(part)  # a series that begins at zero can be told from one that is missing
        for part in ("queue", "compute"):
            self._hop_seconds.labels(part)

    def hop(self, hop: Hop, *, has_answered: bool) -> None:  # noqa: ARG002 - answers are counted at the device
        """Note this tier's part in a request."""
        self._hop_seconds.labels("queue").observe(hop.queue_ms / 1000)
        self._hop_seconds.labels("compute").observe(hop.compute_ms / 1000)
        self._received_bytes.inc(hop.received_bytes)

    def answer(self, answer: Answer) -> None:
        """Note a request that is settled."""
        layer = str(answer.exit_layer) if answer.exit_layer in self._exit_layers else _ODD_LAYER
        self._answers.labels(str(answer.exit_tier), layer, str(answer.reason)).inc()
        parts = {
            "total": answer.total_ms,
            "queue": answer.queue_ms,
            "compute": answer.compute_ms,
            "network": answer.network_ms,
        }
        for part, duration_ms in parts.items():
            self._answer_seconds.labels(part).observe(duration_ms / 1000)
        self._payload_bytes.inc(answer.payload_bytes)
        self._cost.inc(answer.cost)


class Exposition:
    """The text that Prometheus scrapes: what was metered, and the vitals as they are when asked."""

    content_type = CONTENT_TYPE

    def __init__(self, vitals: Vitals, registry: CollectorRegistry) -> None:
        self._registry = registry
        ProcessCollector(registry=registry)
        registry.register(_VitalsCollector(vitals))

    def text(self) -> bytes:
        """Write all metrics."""
        return generate_latest(self._registry)


class _VitalsCollector(Collector):
    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals

    def describe(self) -> Iterable[Metric]:
        return ()  # the parts are known only when all are built

    def collect(self) -> Iterable[Metric]:
        vitals = self._vitals
        yield _single(
            GaugeMetricFamily("dimee_node_info", "Who this is.", labels=["tier", "node", "revision", "version"]),
            [str(vitals.tier), vitals.node, vitals.model_revision, version("dimee")],
            1.0,
        )
        yield _single(GaugeMetricFamily("dimee_ready", "Whether the broker is connected."), [], vitals.is_connected())
        events = CounterMetricFamily("dimee_events", "What happened, by part of the process.", labels=["part", "event"])
        for part, counters in vitals.counters.items():
            for event, count in counters().items():
                events.add_metric([part, event], count)
        yield events
        gauges = GaugeMetricFamily("dimee_level", "What there is now, by part.", labels=["part", "gauge"])
        for part, measure in vitals.gauges.items():
            for name, value in measure().items():
                gauges.add_metric([part, name], value)
        yield gauges
        yield _single(GaugeMetricFamily("dimee_hung_threads", "Threads busy for too long."), [], len(vitals.hung))


def _single(family: GaugeMetricFamily, labels: list[str], value: float) -> GaugeMetricFamily:
    family.add_metric(labels, value)
    return family
