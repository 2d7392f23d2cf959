"""What this machine takes: milliseconds per layer by threads and length, per codec, and per message to a broker."""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.commands.fleet import open_broker
from common.config.document import toml_value
from common.config.measured import Measured
from common.config.settings import Mqtt
from common.errors import TransportError
from common.evaluation.machine import Machine, num_cores, this_machine
from common.evaluation.planning import NEAR_LOSSLESS
from common.evaluation.profile import LinkProfile, Profile, TierProfile
from common.model.bundle import Bundle, open_bundle
from common.model.segments import open_layers, unmasked
from common.transport.contract import Inbox
from common.transport.mqtt import MqttTransport
from common.types import TIERS, Depths, Span, Tier
from common.wire.activations import CODEC_NAMES, codec

LENGTHS = (8, 16, 32, 64, 128)
_RUNS = 40
_PINGS = 100
_CONNECT_LIMIT_S = 10.0
_PING_LIMIT_S = 5.0
_TOPIC = "dimee/v1/bench/ping"
_SMALL_BYTES, _LARGE_BYTES = 4, 262_144  # of the messages that tell latency and rate of a link


class SegmentTime(msgspec.Struct, frozen=True, kw_only=True):
    """One segment under one setting."""

    bundle: str  # as in model.bundle
    span: Span
    precision: str
    threads: int
    tokens: int
    layer_ms: float  # median, per layer
    layer_ms_p90: float


class CodecTime(msgspec.Struct, frozen=True, kw_only=True):
    """One activation codec, there and back."""

    codec: str
    tokens: int
    num_bytes: int
    round_trip_ms: float


class TierChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The quickest way to run one tier here."""

    settings: Measured
    precision: str
    layer_ms: float  # mean over the tier's own layers, at the usual length


class MachineProfile(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured, and what is the best of it for each tier."""

    machine: Machine
    segments: list[SegmentTime]
    codecs: list[CodecTime]
    link: LinkProfile  # to the broker and back
    usual_tokens: int
    tiers: dict[Tier, TierChoice]


def measure_machine(
    locations: Sequence[str], *, broker: str, usual_tokens: int, progress: Callable[[str], None]
) -> MachineProfile:
    """Measure every segment of the bundles at some locations, the codecs and a broker."""
    bundles = {location: open_bundle(location) for location in locations}
    times: list[SegmentTime] = []
    for location, bundle in bundles.items():
        lengths = [length for length in sorted({*LENGTHS, usual_tokens}) if length <= bundle.manifest.max_tokens]
        for threads in range(1, num_cores() + 1):
            progress(f"{bundle.manifest.precision}, {threads} threads")
            times += _segments(bundle, location, threads, lengths)
    progress("broker")
    link = _link(broker)
    manifest = bundles[locations[0]].manifest
    codecs = [_codec(name, tokens, manifest.hidden_size) for name in CODEC_NAMES for tokens in (usual_tokens, 128)]
    quickest = quickest_codec(codecs, link, usual_tokens)
    usual = [each for each in times if each.tokens == usual_tokens]
    return MachineProfile(
        machine=this_machine(),
        segments=times,
        codecs=codecs,
        link=link,
        usual_tokens=usual_tokens,
        tiers={tier: _choice(usual, manifest.depths, tier, quickest) for tier in TIERS},
    )


def tier_profile(found: MachineProfile, tier: Tier | None, known: Profile | None) -> Profile:
    """Write what was found into one tier of a known profile, or into all tiers and links of a new one."""
    here = {
        each: TierProfile(layer_ms=round(choice.layer_ms, 4), settings=choice.settings)
        for each, choice in found.tiers.items()
    }
    if known is not None and tier is not None:
        return msgspec.structs.replace(known, **{tier.value: here[tier]})
    return Profile(
        name="measured",
        device=here[Tier.DEVICE],
        edge=here[Tier.EDGE],
        cloud=here[Tier.CLOUD],
        device_edge=found.link,
        edge_cloud=found.link,
        device_cloud=found.link,
    )


def as_toml(profile: Profile) -> str:
    """Write a profile as ``dimee plan`` and the tiers read it."""
    return "".join(_table("", msgspec.to_builtins(profile)))


def _table(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    """Write a table's own values, then the tables in it; what is None is left out."""
    values = {key: value for key, value in table.items() if value is not None and not isinstance(value, dict)}
    if name:
        yield f"\n[{name}]\n"
    yield from (f"{key} = {toml_value(value)}\n" for key, value in values.items())
    for key, inner in table.items():
        if isinstance(inner, dict):
            yield from _table(f"{name}.{key}" if name else key, inner)


def _segments(bundle: Bundle, location: str, threads: int, lengths: Sequence[int]) -> list[SegmentTime]:
    found = []
    for segment in open_layers(bundle, bundle.manifest.num_layers, threads):
        for tokens in lengths:
            hidden = _random(tokens, bundle.manifest.hidden_size)[None]  # [1, S, H]
            mask = unmasked(tokens)
            took = _timed(lambda: segment.run(hidden, mask))  # noqa: B023 - called before the next length
            layers = segment.span.num_layers
            found.append(
                SegmentTime(
                    bundle=location,
                    span=segment.span,
                    precision=bundle.manifest.precision,
                    threads=threads,
                    tokens=tokens,
                    layer_ms=statistics.median(took) / layers,
                    layer_ms_p90=sorted(took)[int(0.9 * len(took))] / layers,
                )
            )
    return found


def _choice(times: Sequence[SegmentTime], depths: Depths, tier: Tier, codec_name: str) -> TierChoice:
    """Take the bundle and the threads with which a tier's own layers take the least time."""
    start = max((depths.of(nearer) for nearer in TIERS[: TIERS.index(tier)]), default=0)
    ways: dict[tuple[str, str, int], list[SegmentTime]] = defaultdict(list)
    for each in times:
        if start < each.span.end <= depths.of(tier):
            ways[each.bundle, each.precision, each.threads].append(each)
    totals = {way: statistics.fmean(each.layer_ms for each in found) for way, found in ways.items()}
    (bundle, precision, threads), layer_ms = min(totals.items(), key=lambda item: item[1])
    settings = Measured(bundle=bundle, threads=threads, codec=codec_name)
    return TierChoice(settings=settings, precision=precision, layer_ms=layer_ms)


def quickest_codec(codecs: Sequence[CodecTime], link: LinkProfile, tokens: int) -> str:
    """Take the codec whose work and bytes take the least time on the link, of those that hardly change answers."""
    usual = [each for each in codecs if each.tokens == tokens and each.codec in NEAR_LOSSLESS]
    return min(usual, key=lambda each: each.round_trip_ms + each.num_bytes * link.ms_per_byte).codec


def _codec(name: str, tokens: int, width: int) -> CodecTime:
    chosen, hidden = codec(name), _random(tokens, width)
    tensors = chosen.encode(hidden)
    took = _timed(lambda: chosen.decode(chosen.encode(hidden)))
    num_bytes = sum(len(tensor.data) for tensor in tensors)
    return CodecTime(codec=name, tokens=tokens, num_bytes=num_bytes, round_trip_ms=statistics.median(took))


def _link(broker: str) -> LinkProfile:
    """Measure the way from one client over the broker to another, and back, with a small and a large message.

    Raises:
        TransportError: A message did not come within the limit.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dimee-profile-") as directory,
        open_broker(broker, Path(directory)) as address,
    ):
        settings = Mqtt(host=address.host, port=address.port, is_insecure_allowed=True)
        inbox = Inbox(8)
        with MqttTransport(settings, client_id="profile-ping") as transport:
            transport.subscribe(_TOPIC, inbox)
            if not transport.wait_connected(_CONNECT_LIMIT_S):
                raise TransportError(f"no connection to {address.host}:{address.port}")
            small_ms, large_ms = (_ping(transport, inbox, size) for size in (_SMALL_BYTES, _LARGE_BYTES))
    ms_per_byte = max(large_ms - small_ms, 1e-3) / (_LARGE_BYTES - _SMALL_BYTES)
    return LinkProfile(latency_ms=round(2 * small_ms, 3), mbit_s=round(8e-3 / ms_per_byte, 1))


def _ping(transport: MqttTransport, inbox: Inbox, num_bytes: int) -> float:
    """Median milliseconds of a message over the broker to oneself."""
    payload, took = bytes(num_bytes), []
    for _ in range(_PINGS):
        started = time.perf_counter()
        transport.publish(_TOPIC, payload, qos=0)
        if inbox.get(_PING_LIMIT_S) is None:
            raise TransportError(f"no message came back within {_PING_LIMIT_S:.0f} s")
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def _timed(step: Callable[[], object]) -> list[float]:
    for _ in range(5):
        step()
    took = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        step()
        took.append((time.perf_counter() - started) * 1000)
    return took


def _random(tokens: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(tokens, width)).astype(np.float32)  # [S, H]
