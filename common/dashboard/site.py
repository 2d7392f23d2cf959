"""What the page shows: the nodes, the last hour in minutes, and the newest requests; all of it bounded."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from statistics import median

import msgspec

from common.errors import WireError
from common.store.engine import Engine
from common.store.queries import NO_FILTERS, LoggedHop, LoggedRequest, hops_of
from common.store.stream import Stream
from common.transport.contract import Inbox
from common.types import TIERS, NodeStatus, Reason, Tier
from common.wire.documents import decode_status

MINUTES = 60
_MINUTE_S = 60.0
_MOST_LATENCIES = 2000
_MOST_RECENT = 100
_MOST_HOPS = 200  # of each node
_MOST_NODES = 500


class Minute(msgspec.Struct, kw_only=True):
    """What was answered in a minute, by the recorder's clock."""

    start: float  # seconds since the epoch
    answered: dict[str, int]  # by tier
    fallbacks: int = 0  # degraded or failed
    labelled: int = 0
    correct: int = 0
    queue_ms: float = 0.0  # sums over all answers
    compute_ms: float = 0.0
    network_ms: float = 0.0
    disagreements: int = 0  # answers that the true label or the loser of a race contradicts
    payload_bytes: int = 0
    cost: float = 0.0
    tokens: int = 0
    by_device: dict[str, int] = {}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A request in the list."""

    request_id: str
    recorded_at: float
    device_id: str
    exit_tier: str
    exit_layer: int
    reason: str
    label: str | None
    confidence: float
    total_ms: float


class CloudOnly(msgspec.Struct, frozen=True, kw_only=True):
    """What a request would take if every input went to the cloud from its embedding on."""

    cost: float  # under the cost model of the log
    bytes_per_token: float
    bytes_per_message: float


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A node's part in the newest requests, in medians."""

    node: str
    queue_ms: float
    compute_ms: float


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the site."""

    now: float
    nodes: list[NodeStatus]
    is_broker_known: bool  # else the nodes cannot be told
    is_broker_connected: bool  # else the nodes are told as they were
    cloud_only: CloudOnly | None  # None where the model is not known
    minutes: list[Minute]
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    parts: list[Part]
    requests: list[Row]  # newest first


class Site:
    """Collects; used by one thread at a time."""

    def __init__(
        self,
        log: Engine,
        statuses: Inbox | None = None,
        is_connected: Callable[[], bool] = bool,
        *,
        cloud_only: CloudOnly | None = None,
    ) -> None:
        """Begin an hour ago.

        Args:
            log: Open for reading.
            cloud_only: What is compared with.
            statuses: Where the nodes' statuses come in; None where no broker is known.
            is_connected: Whether they do come in.
        """
        self._statuses = statuses
        self._is_connected = is_connected
        self._cloud_only = cloud_only
        self._nodes: dict[tuple[Tier, str], NodeStatus] = {}
        self._minutes: dict[int, Minute] = {}
        self._latencies: deque[float] = deque(maxlen=_MOST_LATENCIES)
        self._recent: deque[Row] = deque(maxlen=_MOST_RECENT)
        self._log = log
        self._hops: dict[str, deque[LoggedHop]] = {}  # by node
        self._stream = Stream(log, NO_FILTERS, start=time.time() - MINUTES * _MINUTE_S)

    def look(self) -> View:
        """Take in what is new and give the whole."""
        now = time.time()
        self._take_statuses()
        fresh: deque[str] = deque(maxlen=_MOST_HOPS)
        for request in self._stream.fresh():
            self._take(request)
            fresh.append(request.request_id)
        self._take_hops(list(fresh))
        first = int(now // _MINUTE_S) - MINUTES + 1
        self._minutes = {place: minute for place, minute in self._minutes.items() if place >= first}
        ordered = sorted(self._latencies)
        return View(
            now=now,
            nodes=sorted(self._nodes.values(), key=lambda node: (TIERS.index(node.tier), node.node)),
            is_broker_known=self._statuses is not None,
            is_broker_connected=self._is_connected(),
            cloud_only=self._cloud_only,
            minutes=[self._minutes.get(place) or _empty(place) for place in range(first, first + MINUTES)],
            latency_ms_p50=ordered[len(ordered) // 2] if ordered else None,
            latency_ms_p95=ordered[len(ordered) * 95 // 100] if ordered else None,
            parts=[_part(node, hops) for node, hops in sorted(self._hops.items())],
            requests=list(self._recent),
        )

    def _take_hops(self, request_ids: list[str]) -> None:
        for hop in hops_of(self._log, request_ids) if request_ids else ():
            if len(self._hops) < _MOST_NODES or hop.node in self._hops:
                self._hops.setdefault(hop.node, deque(maxlen=_MOST_HOPS)).append(hop)

    def _take_statuses(self) -> None:
        while self._statuses is not None and (delivery := self._statuses.get(0)) is not None:
            try:
                status = decode_status(delivery.payload)
            except WireError:
                self._forget(delivery.topic)
                continue
            if len(self._nodes) < _MOST_NODES or (status.tier, status.node) in self._nodes:
                self._nodes[status.tier, status.node] = status

    def _forget(self, topic: str) -> None:
        """Drop a node whose retained status was cleared."""
        tier, _, node = topic.partition("/status/")[2].partition("/")
        self._nodes = {key: status for key, status in self._nodes.items() if key != (tier, node)}

    def _take(self, request: LoggedRequest) -> None:
        place = int(request.recorded_at // _MINUTE_S)
        minute = self._minutes.setdefault(place, _empty(place))
        minute.answered[request.exit_tier] += 1
        minute.fallbacks += request.reason in (Reason.DEGRADED, Reason.FAILED)
        minute.labelled += request.true_label is not None
        minute.correct += request.true_label is not None and request.true_label == request.label
        minute.disagreements += _is_contradicted(request)
        minute.tokens += request.tokens
        if len(minute.by_device) < _MOST_NODES or request.device_id in minute.by_device:
            minute.by_device[request.device_id] = minute.by_device.get(request.device_id, 0) + 1
        minute.queue_ms += request.queue_ms
        minute.compute_ms += request.compute_ms
        minute.network_ms += request.network_ms
        minute.payload_bytes += request.payload_bytes
        minute.cost += request.cost
        self._latencies.append(request.total_ms)
        self._recent.appendleft(Row(**{name: getattr(request, name) for name in Row.__struct_fields__}))


def _is_contradicted(request: LoggedRequest) -> bool:
    others = {request.true_label, request.loser_label} - {None}
    return request.label is not None and bool(others - {request.label})


def _part(node: str, hops: Iterable[LoggedHop]) -> Part:
    queue_ms, compute_ms = (median(getattr(hop, name) for hop in hops) for name in ("queue_ms", "compute_ms"))
    return Part(node=node, queue_ms=queue_ms, compute_ms=compute_ms)


def _empty(place: int) -> Minute:
    return Minute(start=place * _MINUTE_S, answered={str(tier): 0 for tier in TIERS})
