"""One object per process that gathers what it can tell, and tells it to whoever is configured to listen."""

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from common.config.settings import DeviceTracing, Metrics, Tracing
from common.errors import ConfigError
from common.model.manifest import Manifest
from common.service.telemetry.server import TelemetryServer
from common.service.telemetry.systemd import Notifier
from common.service.telemetry.tracing import NoTracer, Tracer
from common.service.telemetry.vitals import Counters, Gauges, Meter, NoMeter, Vitals
from common.types import Tier


class Connection(Protocol):
    """What is asked of a transport."""

    @property
    def is_connected(self) -> bool:
        """Whether it is usable."""

    def counters(self) -> dict[str, int]:
        """Count what happened."""

    def gauges(self) -> dict[str, float]:
        """Measure what there is now."""


class Telemetry:
    """Prepare it first, let every part register, and enter it last: it tells only of what is running."""

    def __init__(self, settings: Metrics, tier: Tier, node: str, manifest: Manifest) -> None:
        """Choose the listeners.

        Raises:
            ConfigError: Metrics are configured, and the extra for them is not installed.
        """
        layers = frozenset(exit_.layer for exit_ in manifest.exits)
        self._vitals = Vitals(tier=tier, node=node, model_revision=manifest.revision, exit_layers=layers)
        self._resources = ExitStack()
        self._open_server: Callable[[Vitals], TelemetryServer] | None = None
        self.meter: Meter = NoMeter()
        if settings.port is not None:
            self.meter, self._open_server = _prometheus(settings.host, settings.port, layers)

    def watch(
        self,
        part: str,
        *,
        counters: Counters | None = None,
        gauges: Gauges | None = None,
        busy_s: Callable[[], float] | None = None,
    ) -> None:
        """Look at a part of the process whenever somebody asks."""
        if counters is not None:
            self._vitals.counters[part] = counters
        if gauges is not None:
            self._vitals.gauges[part] = gauges
        if busy_s is not None:
            self._vitals.busy_s[part] = busy_s

    def watch_connection(self, connection: Connection) -> None:
        """Look at the transport; being ready means being connected."""
        self.watch("transport", counters=connection.counters, gauges=connection.gauges)
        self._vitals.is_connected = lambda: connection.is_connected

    def counters(self) -> dict[str, int]:
        """Give all counters under their parts' names, for the node's status."""
        return {f"{part}_{event}": n for part, found in self._vitals.counters.items() for event, n in found().items()}

    def gauge(self, part: str, name: str) -> float:
        """Measure one thing now; 0 before its part is there."""
        gauges = self._vitals.gauges.get(part)
        return 0.0 if gauges is None else gauges().get(name, 0.0)

    def __enter__(self) -> Self:
        if self._open_server is not None:
            self._resources.enter_context(self._open_server(self._vitals))
        self._resources.enter_context(Notifier(self._vitals))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)


def open_tracer(settings: Tracing, tier: Tier, node: str) -> Tracer:
    """Choose what a node's settings ask for; enter it.

    Raises:
        ConfigError: The endpoint is no URL, or the extra for it is not installed.
    """
    if settings.endpoint is None:
        return NoTracer()
    if urlsplit(settings.endpoint).scheme not in {"http", "https"} or not urlsplit(settings.endpoint).hostname:
        raise ConfigError(f"tracing.endpoint {settings.endpoint!r} is no http URL, e.g. http://collector:4318")
    try:
        from common.service.telemetry.otlp import OtlpTracer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"tracing.endpoint is set and {exc.name!r} is not installed; pip install 'dimee[tracing]'"
        ) from exc
    sample_rate = settings.sample_rate if isinstance(settings, DeviceTracing) else 1.0
    return OtlpTracer(settings.endpoint, tier, node, sample_rate=sample_rate)


def _prometheus(host: str, port: int, layers: frozenset[int]) -> tuple[Meter, Callable[[Vitals], TelemetryServer]]:
    try:
        from common.service.telemetry.prometheus import Exposition, PrometheusMeter  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"metrics.port is set and {exc.name!r} is not installed; pip install 'dimee[metrics]'"
        ) from exc
    meter = PrometheusMeter(layers)

    def open_server(vitals: Vitals) -> TelemetryServer:
        return TelemetryServer(host, port, vitals, Exposition(vitals, meter.registry))

    return meter, open_server
