"""What this machine takes: milliseconds per layer by threads and length, per codec, and per message to a broker."""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.commands.fleet import open_broker
from common.config.settings import Mqtt
from common.errors import TransportError
from common.evaluation.machine import Machine, num_cores, this_machine
from common.evaluation.profile import LinkProfile, Profile, TierProfile
from common.model.bundle import Bundle
from common.model.segments import open_layers
from common.transport.contract import Inbox
from common.transport.mqtt import MqttTransport
from common.types import Tier
from common.wire.activations import CODEC_NAMES, codec

LENGTHS = (8, 16, 32, 64, 128)
_RUNS = 40
_PINGS = 200
_CONNECT_LIMIT_S = 10.0
_PING_LIMIT_S = 5.0
_TOPIC = "dimee/v1/bench/ping"


class SegmentTime(msgspec.Struct, frozen=True, kw_only=True):
    """One segment under one setting."""

    segment: str
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


class MachineProfile(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured, and the best setting for each precision."""

    machine: Machine
    segments: list[SegmentTime]
    codecs: list[CodecTime]
    broker_round_trip_ms: float  # an empty message and its answer, over loopback
    usual_tokens: int
    best: dict[str, SegmentTime]  # by precision: the fastest number of threads at the usual length

    @property
    def fastest(self) -> SegmentTime:
        """Give the fastest of all settings at the usual length."""
        return min(self.best.values(), key=lambda each: each.layer_ms)


def measure_machine(
    bundles: Sequence[Bundle], *, broker: str, usual_tokens: int, progress: Callable[[str], None]
) -> MachineProfile:
    """Measure every segment of some bundles, the codecs and a broker."""
    lengths = sorted({*LENGTHS, usual_tokens})
    times: list[SegmentTime] = []
    for bundle in bundles:
        usable = [length for length in lengths if length <= bundle.manifest.max_tokens]
        for threads in range(1, num_cores() + 1):
            progress(f"{bundle.manifest.precision}, {threads} threads")
            times += _segments(bundle, threads, usable)
    progress("broker")
    width = bundles[0].manifest.hidden_size
    return MachineProfile(
        machine=this_machine(),
        segments=times,
        codecs=[_codec(name, tokens, width) for name in CODEC_NAMES for tokens in (usual_tokens, 128)],
        broker_round_trip_ms=_broker(broker),
        usual_tokens=usual_tokens,
        best={bundle.manifest.precision: _best(times, bundle.manifest.precision, usual_tokens) for bundle in bundles},
    )


def tier_profile(found: MachineProfile, tier: Tier | None, known: Profile | None) -> Profile:
    """Write what was found into one tier of a known profile, or into all tiers and links of a new one."""
    here = TierProfile(layer_ms=round(found.fastest.layer_ms, 4))
    if known is not None and tier is not None:
        return msgspec.structs.replace(known, **{tier.value: here})
    link = LinkProfile(latency_ms=round(found.broker_round_trip_ms, 3))
    return Profile(
        name="measured", device=here, edge=here, cloud=here, device_edge=link, edge_cloud=link, device_cloud=link
    )


def as_toml(profile: Profile) -> str:
    """Write a profile as ``dimee plan`` reads it."""
    tables = msgspec.to_builtins(profile)
    lines = [f"name = {msgspec.json.encode(tables.pop('name')).decode()}"]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {value}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _segments(bundle: Bundle, threads: int, lengths: Sequence[int]) -> list[SegmentTime]:
    found = []
    for segment in open_layers(bundle, bundle.manifest.num_layers, threads):
        for tokens in lengths:
            hidden = _random(tokens, bundle.manifest.hidden_size)[None]  # [1, S, H]
            mask = np.ones((1, tokens), np.int64)
            took = _timed(lambda: segment.run(hidden, mask))  # noqa: B023 - called before the next length
            layers = segment.span.num_layers
            found.append(
                SegmentTime(
                    segment=f"{segment.span.start}-{segment.span.end}",
                    precision=bundle.manifest.precision,
                    threads=threads,
                    tokens=tokens,
                    layer_ms=statistics.median(took) / layers,
                    layer_ms_p90=sorted(took)[int(0.9 * len(took))] / layers,
                )
            )
    return found


def _best(times: Sequence[SegmentTime], precision: str, tokens: int) -> SegmentTime:
    by_threads: dict[int, list[SegmentTime]] = defaultdict(list)
    for each in times:
        if each.precision == precision and each.tokens == tokens:
            by_threads[each.threads].append(each)
    totals = [
        SegmentTime(
            segment="all",
            precision=precision,
            threads=threads,
            tokens=tokens,
            layer_ms=statistics.mean(each.layer_ms for each in found),
            layer_ms_p90=statistics.mean(each.layer_ms_p90 for each in found),
        )
        for threads, found in by_threads.items()
    ]
    return min(totals, key=lambda each: each.layer_ms)


def _codec(name: str, tokens: int, width: int) -> CodecTime:
    chosen, hidden = codec(name), _random(tokens, width)
    tensors = chosen.encode(hidden)
    took = _timed(lambda: chosen.decode(chosen.encode(hidden)))
    num_bytes = sum(len(tensor.data) for tensor in tensors)
    return CodecTime(codec=name, tokens=tokens, num_bytes=num_bytes, round_trip_ms=statistics.median(took))


def _broker(kind: str) -> float:
    """Median milliseconds from one client over the broker to another, and back.

    Raises:
        TransportError: A message did not come within the limit.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dimee-profile-") as directory,
        open_broker(kind, Path(directory)) as address,
    ):
        settings = Mqtt(host=address.host, port=address.port, is_insecure_allowed=True)
        inbox = Inbox(8)
        with MqttTransport(settings, client_id="profile-ping") as transport:
            transport.subscribe(_TOPIC, inbox)
            if not transport.wait_connected(_CONNECT_LIMIT_S):
                raise TransportError(f"no connection to {address.host}:{address.port}")
            took = []
            for _ in range(_PINGS):
                started = time.perf_counter()
                transport.publish(_TOPIC, b"ping", qos=0)
                if inbox.get(_PING_LIMIT_S) is None:
                    raise TransportError(f"no message came back within {_PING_LIMIT_S:.0f} s")
                took.append((time.perf_counter() - started) * 1000)
    return 2 * statistics.median(took)  # a message and its answer


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
