"""Every setting with its default and unit; the file, the environment and the docs follow this module."""

from typing import Annotated, Literal

import msgspec

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; unknown keys are errors."""


class Node(Section, frozen=True, kw_only=True):
    """Who this process is."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]  # unique at the broker; also the MQTT client id


class Mqtt(Section, frozen=True, kw_only=True):
    """The one broker this process talks to."""

    host: str = "127.0.0.1"
    port: Port = 1883
    site: str = "home"  # first level of every topic behind dimee/v1
    username: str | None = None
    password_file: str | None = None  # the password is the file's first line
    tls_ca_file: str | None = None  # PEM of the authority of the broker's certificate; without it MQTT is plain
    tls_certificate_file: str | None = None  # PEM; this node's certificate, its name is node.id
    tls_key_file: str | None = None  # PEM, unencrypted, readable by this node alone
    is_insecure_allowed: bool = False  # plain MQTT to a broker beyond loopback
    version: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive_s: AtLeastOne = 30  # a node without a cable is missed after one and a half of it
    max_packet_bytes: AtLeastOne = 2_000_000  # the broker's own limit counts too, where it tells one
    max_inbox: AtLeastOne = 1024  # messages waiting to be handled
    max_outbox: AtLeastOne = 1024  # messages waiting for the network


class Model(Section, frozen=True, kw_only=True):
    """The bundle to serve."""

    bundle: str = "shipped"  # a directory, or "shipped"
    threads: AtLeastOne = 1  # onnxruntime threads per segment
    providers: tuple[str, ...] = ("CPUExecutionProvider",)  # onnxruntime's, best first; what is not here is passed over
    profile_file: str | None = None  # by 'dimee bench profile'; bundle, threads and codec are its, where not set here
    trusted_key_file: str | None = None  # PEM of the only key whose bundles are loaded; unsigned ones pass without it
    release_file: str | None = None  # remembers the newest release that ran here; needed with trusted_key_file
    is_rollback_allowed: bool = False  # load a release older than that


class Routing(Section, frozen=True, kw_only=True):
    """Which tier an input enters, and when an exit answers."""

    policy: str = "default"  # the bundle's default, or a policy by name


class DeviceLimits(Section, frozen=True, kw_only=True):
    """What a device promises and holds."""

    budget_ms: Positive = 2000.0  # from acceptance to answer
    max_in_flight: AtLeastOne = 64  # requests waiting for another tier
    max_unrecorded: AtLeastOne = 10_000  # finished requests waiting for the recorder's receipt
    when_full: Literal["refuse", "drop"] = "refuse"  # at max_unrecorded: new requests, or oldest records
    retry_ms: Positive = 500.0  # first wait for an outcome before a request goes out again
    shadow_ms: NonNegative = 100.0  # wait for an outcome before the device's own exit runs beside it
    codec: str = "int8"  # of the hidden states it sends
    offload: Literal["hidden_states", "tokens"] = "hidden_states"  # before layer 0: tokens are small, and the words
    audit_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0  # share of other tiers' answers computed again here
    needs_signatures: bool = False  # other tiers' answers count only with their signature; authority as in [channel]


class Link(Section, frozen=True, kw_only=True):
    """How thin hidden states leave, where the bundle has thin links: docs/thin-link.md."""

    budget: Annotated[int, msgspec.Meta(ge=0)] = 0  # dimensions per token; one of the bundle's budgets, 0 for all
    tokens: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0  # share of the tokens, those that count most


class Uplink(Section, frozen=True, kw_only=True):
    """Whether a device looks at its way up before it sends."""

    is_adaptive: bool = False  # each message as thin as its time asks for, from what [link] says on
    max_drop_points: NonNegative = 1.0  # of accuracy, by the bundle's record: budgets that lose more are never sent
    time_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5  # of a request's time, until its outcome is back


class DeviceLog(Section, frozen=True, kw_only=True):
    """What a device tells the log."""

    keep_text: bool = False  # the texts themselves
    drain_s: Positive = 10.0  # how long a stop waits for the recorder's receipts


class Outbox(Section, frozen=True, kw_only=True):
    """Where a device keeps what it has promised."""

    path: str | None = None  # SQLite file; in memory, and lost with the process, otherwise
    sync: Literal["written", "accepted", "answered"] = "written"  # what an answer waits for, docs/reliability.md
    max_remembered: AtLeastOne = 4096  # answered inputs whose id may come again
    key_file: str | None = None  # texts and records are encrypted with it; credential:NAME takes it from systemd


class Worker(Section, frozen=True, kw_only=True):
    """What an edge or a cloud worker holds."""

    codec: str = "int8"  # of the hidden states it escalates
    takes_tokens: bool = False  # load the embedding too, for devices with device.offload = "tokens"
    max_remembered: AtLeastOne = 4096  # recent outcomes, repeated when a request comes again
    max_batch: AtLeastOne | None = None  # computed together, never waited for; not set: 1, on an accelerator as pays
    variants: tuple[str, ...] = ()  # bundles of the same training run, e.g. in float32; chosen by the time that is left
    quarantine_file: str | None = None  # SQLite; of an edge beside its log, else in memory, where none is named
    max_quarantined: AtLeastOne = 256  # messages kept there, of each kind
    max_waiting: AtLeastOne = 256  # requests that wait, in turn by device; beyond, the least valuable is shed


class EdgeLog(Section, frozen=True, kw_only=True):
    """The recorder and its database."""

    is_recorder: bool = True  # keep the site's log here
    key_file: str | None = None  # texts are encrypted with it; credential:NAME takes it from systemd
    url: str = "sqlite:///dimee-log.sqlite"  # or postgresql+psycopg://user:password@host/database
    keep_days: Positive | None = None  # delete what was recorded earlier; everything is kept otherwise


class EmbeddedBroker(Section, frozen=True, kw_only=True):
    """A broker inside the edge process, for a site without Mosquitto."""

    is_enabled: bool = False
    host: str = "127.0.0.1"  # beyond loopback only with tls_folder
    port: Port = 1883
    tls_folder: str | None = None  # ca.pem, certificate.pem, key.pem, crl.pem, acl; clients then need certificates


class Metrics(Section, frozen=True, kw_only=True):
    """What this process tells of itself over HTTP: /metrics, /healthz and /readyz."""

    port: Port | None = None  # nothing is served until it is set
    host: str = "127.0.0.1"  # other machines may ask only where this is one of this machine's addresses, or 0.0.0.0


class HomeAssistant(Section, frozen=True, kw_only=True):
    """Whether this node shows itself in Home Assistant, by MQTT discovery."""

    is_enabled: bool = False
    every_s: Positive = 30.0  # between two sets of figures


class Tracing(Section, frozen=True, kw_only=True):
    """Spans of every traced request, for an OpenTelemetry collector."""

    endpoint: str | None = None  # of the collector, by OTLP over HTTP, e.g. http://collector:4318; none without it


class DeviceTracing(Tracing, frozen=True, kw_only=True):
    """Spans of every traced request, for an OpenTelemetry collector."""

    sample_rate: Fraction = 1.0  # of the requests that come without a traceparent, how many begin a trace


class Channel(Section, frozen=True, kw_only=True):
    """How messages between tiers are protected from the broker."""

    name: Literal["plain", "sealed"] = "plain"  # the same for all nodes of a site
    ca_file: str | None = None  # PEM of the site's authority; mqtt.tls_ca_file where it is not set
    certificate_file: str | None = None  # PEM of this node; mqtt.tls_certificate_file where it is not set
    key_file: str | None = None  # PEM, unencrypted; mqtt.tls_key_file where it is not set
    crl_file: str | None = None  # PEM; what the authority has revoked
    tier_key_folder: str | None = None  # of an edge or a cloud worker: made by 'dimee certs seal'
    session_s: Positive = 600.0  # how long one session key is used
    has_plain_inputs: bool = False  # of a device: texts and answers over MQTT all the same, for the broker to read
    has_core: bool = False  # of an edge or a cloud worker: keys and computing in a confined process of their own
    core_user: str | None = None  # whom that process becomes; needs a start as root


class Updates(Section, frozen=True, kw_only=True):
    """Bundles that an operator publishes over the broker."""

    folder: str | None = None  # where they are kept; without it this node stays with model.bundle


class DeviceUpdates(Section, frozen=True, kw_only=True):
    """Bundles that an operator publishes over the broker, and when a device goes back by itself."""

    folder: str | None = None  # where they are kept; without it this node stays with model.bundle
    window: AtLeastOne = 100  # answers of a new bundle that are watched before it counts as proven
    max_exit_drift: Fraction = 0.3  # of its answers, how many may exit elsewhere than the bundle's record says
    max_degraded: Fraction = 0.2  # of its answers, how many may be degraded or failed while the broker is there


class DeviceSettings(Section, frozen=True, kw_only=True):
    """One device."""

    node: Node
    mqtt: Mqtt = Mqtt()
    model: Model = Model()
    routing: Routing = Routing()
    device: DeviceLimits = DeviceLimits()
    link: Link = Link()
    uplink: Uplink = Uplink()
    log: DeviceLog = DeviceLog()
    outbox: Outbox = Outbox()
    updates: DeviceUpdates = DeviceUpdates()
    metrics: Metrics = Metrics()
    home_assistant: HomeAssistant = HomeAssistant()
    tracing: DeviceTracing = DeviceTracing()
    channel: Channel = Channel()


class EdgeSettings(Section, frozen=True, kw_only=True):
    """One edge."""

    node: Node
    mqtt: Mqtt = Mqtt()
    model: Model = Model()
    routing: Routing = Routing()
    worker: Worker = Worker()
    link: Link = Link()
    log: EdgeLog = EdgeLog()
    broker: EmbeddedBroker = EmbeddedBroker()
    updates: Updates = Updates()
    metrics: Metrics = Metrics()
    home_assistant: HomeAssistant = HomeAssistant()
    tracing: Tracing = Tracing()
    channel: Channel = Channel()


class CloudSettings(Section, frozen=True, kw_only=True):
    """One cloud worker."""

    node: Node
    mqtt: Mqtt = Mqtt()
    model: Model = Model()
    routing: Routing = Routing()
    worker: Worker = Worker()
    updates: Updates = Updates()
    metrics: Metrics = Metrics()
    home_assistant: HomeAssistant = HomeAssistant()
    tracing: Tracing = Tracing()
    channel: Channel = Channel()


AnySettings = DeviceSettings | EdgeSettings | CloudSettings
